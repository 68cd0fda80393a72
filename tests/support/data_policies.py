"""Retention and legal holds: the calls, short enough for tables."""

from typing import Any

from aiworkspace.v1 import data_pb2 as pb
from tests.support.people import Person


def get_policy(person: Person, org_id: str, workspace_id: str = "") -> Any:
    return person.data.GetDataPolicy(pb.GetDataPolicyRequest(org_id=org_id, workspace_id=workspace_id))


def set_retention(person: Person, org_id: str, workspace_id: str = "", **days: int) -> Any:
    retention = pb.Retention(**days)
    request = pb.SetRetentionRequest(org_id=org_id, workspace_id=workspace_id, retention=retention)
    return person.data.SetRetention(request)


def hold(person: Person, org_id: str, workspace_id: str = "", reason: str = "Case 7.") -> Any:
    request = pb.SetLegalHoldRequest(org_id=org_id, workspace_id=workspace_id, held=True, reason=reason)
    return person.data.SetLegalHold(request)


def release(person: Person, org_id: str, workspace_id: str = "") -> Any:
    return person.data.SetLegalHold(pb.SetLegalHoldRequest(org_id=org_id, workspace_id=workspace_id))
