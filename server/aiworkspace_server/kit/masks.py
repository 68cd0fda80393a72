"""Updates by field mask."""

from collections.abc import Collection
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from .errors import InvalidArgument


def changes(resource: Message, mask: FieldMask, mutable: Collection[str]) -> dict[str, Any]:
    """Return the mutable fields that the mask names, with their new values.

    An empty mask stands for every mutable field that is set. Fields that exist but are not mutable are ignored. Raises
    InvalidArgument if the mask names a field that does not exist.
    """
    fields = resource.DESCRIPTOR.fields_by_name
    if not mask.paths:
        present = {field.name for field, _ in resource.ListFields()}
        return {name: getattr(resource, name) for name in mutable if name in present}
    unknown = [path for path in mask.paths if path not in fields]
    if unknown:
        raise InvalidArgument({"update_mask": f"{unknown[0][:100]!r} is not a field of {resource.DESCRIPTOR.name}"})
    return {name: getattr(resource, name) for name in mutable if name in mask.paths}
