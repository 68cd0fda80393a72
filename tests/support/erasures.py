"""Erasures: the calls, short enough for tables."""

from typing import Any

from aiworkspace.v1 import data_pb2 as pb
from tests.support.people import Person


def erase_org(person: Person, org_id: str) -> Any:
    return person.data.EraseOrg(pb.EraseOrgRequest(org_id=org_id))


def cancel_erasure(person: Person, erasure: pb.Erasure) -> Any:
    return person.data.CancelErasure(pb.CancelErasureRequest(org_id=erasure.org_id, erasure_id=erasure.erasure_id))


def erase_user(person: Person, org_id: str, user_id: str) -> Any:
    return person.data.EraseUser(pb.EraseUserRequest(org_id=org_id, user_id=user_id))


def list_erasures(person: Person, org_id: str) -> Any:
    return person.data.ListErasures(pb.ListErasuresRequest(org_id=org_id))


def get_receipt(person: Person, erasure: pb.Erasure) -> Any:
    return person.data.GetErasureReceipt(pb.GetErasureReceiptRequest(erasure_id=erasure.erasure_id))
