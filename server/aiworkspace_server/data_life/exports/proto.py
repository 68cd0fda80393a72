"""Exports in the contract's form."""

from aiworkspace.v1 import data_pb2 as pb

from ...kit.timestamps import timestamp
from .models import Export, ExportState, FailureReason

_STATES = {state: pb.ExportState.Value(f"EXPORT_STATE_{state.name}") for state in ExportState}
_REASONS = {reason: pb.ExportFailureReason.Value(f"EXPORT_FAILURE_REASON_{reason.name}") for reason in FailureReason}


def export_to_proto(export: Export) -> pb.Export:
    failure = export.failure_reason
    return pb.Export(
        export_id=str(export.id),
        org_id=str(export.org_id),
        user_id=str(export.user_id),
        state=_STATES[ExportState(export.state)],
        create_time=timestamp(export.create_time),
        end_time=timestamp(export.end_time) if export.end_time else None,
        expire_time=timestamp(export.expire_time) if export.expire_time else None,
        size_bytes=export.size_bytes,
        sha256=export.sha256.hex() if export.sha256 else "",
        row_count=export.row_count,
        file_count=export.file_count,
        failure_reason=_REASONS[FailureReason(failure)] if failure else pb.EXPORT_FAILURE_REASON_UNSPECIFIED,
    )
