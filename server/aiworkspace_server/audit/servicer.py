"""AuditService: proto in and out, one transaction per call."""

from aiworkspace.v1.audit_pb2_grpc import AuditServiceServicer

from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.replies import Replies


class AuditServicer(AuditServiceServicer):
    def __init__(self, db: Database, pages: Pages, replies: Replies) -> None:
        self._db = db
        self._pages = pages
        self._replies = replies
