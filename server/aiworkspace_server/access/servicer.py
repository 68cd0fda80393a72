"""AccessService: proto in and out, one transaction per call."""

from aiworkspace.v1.access_pb2_grpc import AccessServiceServicer

from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.replies import Replies


class AccessServicer(AccessServiceServicer):
    def __init__(self, db: Database, pages: Pages, replies: Replies) -> None:
        self._db = db
        self._pages = pages
        self._replies = replies
