"""What an export has: each table with its columns, and what is withheld with the reason.

A table, column or collection that is named nowhere here is in no export, and makes a test fail: so what a change adds
is never exported by itself, and never forgotten.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_
from sqlalchemy.orm import InstrumentedAttribute

from ...audit.models import AuditEvent, AuditOrigin
from ...auth.models import User
from ...budgets.models import Budget, BudgetCount
from ...documents.models import Blob, Collection, CollectionDocument, Document, DocumentVersion, State, Upload
from ...erasure.models import Erasure
from ...events.models import Event
from ...orgs.holds import DataPolicy
from ...orgs.models import CustomRole, Invitation, Membership, Org, Team, TeamMember
from ...policies.models import ModelPolicy, ProviderKey
from ...service_accounts.models import ApiKey, ApiKeyWorkspace
from ...usage.models import TOKENS, LedgerEntry, UsageRollup
from ...webhooks.models import WebhookDelivery, WebhookEndpoint
from ...workspaces.models import Workspace, WorkspaceMember

Column = InstrumentedAttribute[Any]


@dataclass(frozen=True)
class Join:
    table: type
    on: ColumnElement[bool]


@dataclass(frozen=True)
class Table:
    """Rows of an organization, one member of the ZIP file."""

    name: str  # of the member, without its suffix
    columns: tuple[Column, ...]
    key: tuple[Column, ...]  # of the primary key, without the tenant: rows are read in its order
    join: Join | None = None
    where: ColumnElement[bool] | None = None
    batch: int = 200  # rows that are in memory


def _all(table: Any, *names: str) -> tuple[Column, ...]:
    return tuple(getattr(table, name) for name in names)


_PERSON = Join(User, User.id == Membership.user_id)
_ACCOUNT = (*_all(Membership, "user_id", "role", "custom_role_id", "version", "create_time", "suspend_time"),)

TABLES = (
    Table(
        "org",
        _all(
            Org, "id", "name", "version", "create_time", "update_time", "call_ceilings", "suspend_time", "state_reason"
        ),
        (Org.id,),
    ),
    Table(
        "members",
        (*_ACCOUNT, User.email, User.display_name),
        (Membership.user_id,),
        _PERSON,
        User.kind != "service",
    ),
    Table(
        "service_accounts",
        (*_ACCOUNT, User.display_name, Membership.creator_key_id, Membership.call_limits),
        (Membership.user_id,),
        _PERSON,
        User.kind == "service",
    ),
    Table(
        "invitations",
        (
            *_all(Invitation, "id", "email", "role", "custom_role_id", "inviter_id", "creator_key_id", "create_time"),
            *_all(Invitation, "expire_time", "accept_time", "accepter_id", "revoke_time"),
        ),
        (Invitation.id,),
    ),
    Table("teams", _all(Team, "id", "name", "version", "create_time", "update_time"), (Team.id,)),
    Table(
        "team_members",
        _all(TeamMember, "team_id", "user_id", "create_time"),
        (TeamMember.team_id, TeamMember.user_id),
    ),
    Table(
        "custom_roles",
        _all(CustomRole, "id", "name", "permissions", "version", "create_time", "update_time"),
        (CustomRole.id,),
    ),
    Table(
        "api_keys",
        (
            *_all(ApiKey, "id", "user_id", "root_id", "name", "prefix", "permissions", "workspaces_limited"),
            *_all(ApiKey, "creator_id", "creator_key_id", "create_time", "expire_time", "revoke_time"),
            *_all(ApiKey, "last_use_time", "last_use_address", "call_limits"),
        ),
        (ApiKey.id,),
    ),
    Table(
        "api_key_workspaces",
        _all(ApiKeyWorkspace, "api_key_id", "workspace_id"),
        (ApiKeyWorkspace.api_key_id, ApiKeyWorkspace.workspace_id),
    ),
    Table(
        "workspaces",
        (
            *_all(Workspace, "id", "name", "default_model", "system_prompt", "visibility", "retrieval", "version"),
            *_all(Workspace, "create_time", "update_time"),
        ),
        (Workspace.id,),
        where=Workspace.delete_time.is_(None),
        batch=20,
    ),
    Table(
        "workspace_members",
        _all(WorkspaceMember, "workspace_id", "user_id", "team_id", "role", "create_time"),
        (WorkspaceMember.workspace_id, WorkspaceMember.member_id),
    ),
    Table(
        "model_policies",
        _all(ModelPolicy, "scope_id", "workspace_id", "policy", "version", "update_time"),
        (ModelPolicy.scope_id,),
        batch=20,
    ),
    Table(
        "provider_keys",
        _all(ProviderKey, "provider", "id", "creator_id", "create_time"),
        (ProviderKey.provider,),
    ),
    Table(
        "data_policies",
        (
            *_all(DataPolicy, "scope_id", "conversation_days", "document_days", "attempt_days"),
            *_all(DataPolicy, "hold_time", "hold_reason"),
        ),
        (DataPolicy.scope_id,),
    ),
    Table(
        "budgets",
        (
            *_all(Budget, "id", "scope", "subject_id", "named_id", "period", "limit_nanos", "hard", "alert_percents"),
            *_all(Budget, "version", "create_time", "update_time"),
        ),
        (Budget.id,),
    ),
    Table(
        "budget_windows",
        (
            *_all(BudgetCount, "budget_id", "subject_id", "start_time", "settled_nanos", "reserved_nanos"),
            BudgetCount.alerted_percent,
        ),
        (BudgetCount.budget_id, BudgetCount.subject_id, BudgetCount.start_time),
    ),
    Table(
        "ledger_entries",
        (
            *_all(LedgerEntry, "id", "kind", "workspace_id", "conversation_id", "run_id", "attempt", "run_time"),
            *_all(LedgerEntry, "user_id", "key_id", "key_root_id", "request_id", "model", "own_key", *TOKENS),
            *_all(LedgerEntry, "estimated", "above_limit", "reserved_nanos", "cost_nanos", "currency"),
            *_all(LedgerEntry, "price_version", "create_time"),
        ),
        (LedgerEntry.id,),
    ),
    Table(
        "usage_rollups",
        (
            *_all(UsageRollup, "period", "start_time", "workspace_id", "user_id", "key_id", "model"),
            *_all(UsageRollup, "request_count", *TOKENS, "cost_nanos"),
        ),
        _all(UsageRollup, "period", "start_time", "workspace_id", "user_id", "key_id", "model"),
    ),
    Table(
        "audit_events",
        (
            *_all(AuditEvent, "sequence", "create_time", "method", "user_id", "session_id", "api_key_id", "role"),
            *_all(AuditEvent, "address", "user_agent", "request_id", "resources", "code", "reason", "hash"),
        ),
        (AuditEvent.sequence,),
    ),
    Table("audit_origins", _all(AuditOrigin, "sequence", "address", "user_agent"), (AuditOrigin.sequence,)),
    Table(
        "erasures",
        (
            *_all(Erasure, "id", "user_id", "requester_id", "create_time", "due_time", "begin_time", "end_time"),
            *_all(Erasure, "cancel_time", "receipt"),
        ),
        (Erasure.id,),
        batch=50,
    ),
    Table("events", _all(Event, "sequence", "id", "type", "create_time", "resources"), (Event.sequence,)),
    Table(
        "webhook_endpoints",
        (
            *_all(WebhookEndpoint, "id", "url", "description", "event_types", "enabled", "disable_reason"),
            *_all(WebhookEndpoint, "answering", "fail_time", "resume_time", "previous_secret_expire_time"),
            *_all(WebhookEndpoint, "version", "create_time", "update_time"),
        ),
        (WebhookEndpoint.id,),
    ),
    Table(
        "webhook_deliveries",
        (
            *_all(WebhookDelivery, "webhook_endpoint_id", "sequence", "state", "attempt_count", "next_attempt_time"),
            WebhookDelivery.attempts,
        ),
        (WebhookDelivery.webhook_endpoint_id, WebhookDelivery.sequence),
        batch=50,
    ),
    Table(
        "collections",
        _all(Collection, "id", "workspace_id", "name", "description", "version", "create_time", "update_time"),
        (Collection.id,),
    ),
    Table(
        "collection_documents",
        _all(CollectionDocument, "collection_id", "document_id"),
        (CollectionDocument.collection_id, CollectionDocument.document_id),
    ),
    Table(
        "documents",
        (
            *_all(
                Document, "id", "workspace_id", "user_id", "name", "latest_version_id", "ready_version_id", "version"
            ),
            *_all(Document, "create_time", "update_time"),
        ),
        (Document.id,),
    ),
    Table(
        "document_versions",
        (
            *_all(DocumentVersion, "id", "workspace_id", "document_id", "number", "blob_id", "state", "step", "reason"),
            *_all(DocumentVersion, "media_type", "language", "text_length", "page_count", "unread_pages"),
            *_all(DocumentVersion, "chunk_count", "create_time"),
            *_all(Blob, "sha256", "size_bytes"),
        ),
        (DocumentVersion.id,),
        Join(Blob, and_(Blob.org_id == DocumentVersion.org_id, Blob.id == DocumentVersion.blob_id)),
        DocumentVersion.state != State.ENDED,
    ),
    Table(
        "uploads",
        (
            *_all(Upload, "id", "workspace_id", "user_id", "name", "size_bytes", "sha256", "collection_ids"),
            *_all(Upload, "replaces_id", "document_id", "create_time", "expire_time"),
        ),
        (Upload.id,),
        where=Upload.end_time.is_(None),
    ),
)

_DERIVED = "made from the text of the documents"
_TOMBSTONE = "of what was deleted, which is in no export"
_WORK = "the server's own work in progress"

# Tables, and single columns of those above. The organization's id is not repeated in each row: the manifest has it.
WITHHELD = {
    "api_keys.secret_hash": "secret",
    "audit_heads": "the number and hash of the last audit event",
    "audit_origins.salt": "with it, digests of the address and user agent in audit_events would be no digests",
    "audit_resources": "an index of audit_events.resources",
    "blobs.create_time": "the bytes of documents are under documents/",
    "blobs.id": "document_versions.blob_id",
    "chunk_vectors": _DERIVED,
    "chunks": _DERIVED,
    "data_policies.attempts_until": _WORK,
    "document_steps": _WORK,
    "document_usage": "the sums of document_versions",
    "document_versions.claim_id": _WORK,
    "document_versions.deleted_document_id": _TOMBSTONE,
    "document_versions.due_time": _WORK,
    "document_versions.end_time": _TOMBSTONE,
    "document_versions.text_id": _WORK,
    "embedded_versions": _DERIVED,
    "erasures.found": _WORK,
    "event_heads": "the number of the last event",
    "exports": "copies of everything",
    "hidden_versions": _DERIVED,
    "orgs.delete_time": _TOMBSTONE,
    "orgs.erase_time": _TOMBSTONE,
    "postings": _DERIVED,
    "provider_keys.hint": "the end of a secret",
    "provider_keys.secret": "secret",
    "run_claims": "locks of runs, which are in runs",
    "search_generations": _DERIVED,
    "search_stats": _DERIVED,
    "search_versions": _DERIVED,
    "uploads.end_time": _TOMBSTONE,
    "uploads.stream_id": _WORK,
    "users.create_time": "of the person's account, which is no part of the organization",
    "users.created_org_count": "of the person's account, which is no part of the organization",
    "users.delete_time": _TOMBSTONE,
    "users.erase_time": _TOMBSTONE,
    "users.id": "members.user_id",
    "users.kind": "people are in members, service accounts in service_accounts",
    "users.password_hash": "secret",
    "users.request_id": _WORK,
    "users.update_time": "of the person's account, which is no part of the organization",
    "users.verify_time": "of the person's account, which is no part of the organization",
    "users.version": "of the person's account, which is no part of the organization",
    "webhook_endpoints.previous_secret": "secret",
    "webhook_endpoints.secret": "secret",
    "workspace_members.member_id": "user_id or team_id",
    "workspaces.delete_time": _TOMBSTONE,
    "workspaces.erase_time": _TOMBSTONE,
}

# What is read of conversations and runs. See `chats` for what is made of it.
CONVERSATION_FIELDS = (
    *("_id", "workspace_id", "user_id", "title", "model", "active_run_id", "version", "create_time", "update_time"),
    "retrieval",
)
MESSAGE_FIELDS = (
    *("_id", "conversation_id", "user_message_id", "message_id", "question", "answer", "answer_model", "state"),
    *("create_time", "citations", "omissions"),
)
RUN_FIELDS = (
    *("_id", "conversation_id", "workspace_id", "user_id", "user_message_id", "message_id", "model", "plan", "state"),
    *("finish_reason", "failure", "usage", "cost", "attempt_count", "attempts", "retrieval", "create_time", "end_time"),
)
WITHHELD_DOCUMENTS = {
    "conversations.delete_time": _TOMBSTONE,
    "conversations.last_run_id": "the last one in runs",
    "conversations.purge_time": _TOMBSTONE,
    "conversations.size_bytes": _WORK,
    "document_texts": _DERIVED,
    "documents.chunks": "the bytes of documents are under documents/",
    "documents.files": "the bytes of documents are under documents/",
    "documents.writes": _WORK,
    "run_events": "the events that stream a run; what was said is in messages",
    "runs.attempts.error": "what a provider said to the server about a failure",
    "runs.dropped_citation_count": _WORK,
    "runs.end_id": _WORK,
    "runs.event_count": _WORK,
    "runs.first_events": "the events that stream a run; what was said is in messages",
    "runs.last_events": "the events that stream a run; what was said is in messages",
    "runs.sources": "passages of documents, kept until the run ends",
    "runs.takeovers": _WORK,
    "runs.trace": _WORK,
    "runs.unsettled": _WORK,
}
