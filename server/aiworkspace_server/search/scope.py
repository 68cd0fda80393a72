"""Where a search looks: a workspace, and what the filters let pass."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from .models import Filters

Key = tuple[UUID, int]  # version and number of a chunk

# Versions `v` that may answer. Every statement that is about them contains this condition.
ALLOWED = """
v.org_id = :org_id AND v.workspace_id = :workspace_id
    AND (CAST(:document_ids AS uuid[]) IS NULL OR v.document_id = ANY (CAST(:document_ids AS uuid[])))
    AND (CAST(:media_types AS text[]) IS NULL OR v.media_type = ANY (CAST(:media_types AS text[])))
    AND (CAST(:start_time AS timestamptz) IS NULL OR v.create_time >= CAST(:start_time AS timestamptz))
    AND (CAST(:end_time AS timestamptz) IS NULL OR v.create_time < CAST(:end_time AS timestamptz))
    AND (CAST(:collection_ids AS uuid[]) IS NULL OR EXISTS (
      SELECT FROM collection_documents d WHERE d.org_id = :org_id AND d.document_id = v.document_id
        AND d.collection_id = ANY (CAST(:collection_ids AS uuid[]))))
"""


@dataclass(frozen=True, slots=True)
class Scope:
    """The workspace and the filters of one search."""

    org_id: UUID
    workspace_id: UUID
    filters: Filters

    @property
    def filtered(self) -> bool:
        return self.filters != Filters()

    @property
    def values(self) -> dict[str, Any]:
        """Return the parameters of ALLOWED."""
        filters = self.filters
        return {
            "org_id": self.org_id,
            "workspace_id": self.workspace_id,
            "document_ids": None if filters.document_ids is None else list(filters.document_ids),
            "media_types": None if filters.media_types is None else list(filters.media_types),
            "collection_ids": None if filters.collection_ids is None else list(filters.collection_ids),
            "start_time": filters.start_time,
            "end_time": filters.end_time,
        }
