"""Tokens of invitations."""

import base64
import binascii
import hmac
from uuid import UUID

from ..kit.errors import NotFound


class InvitationTokens:
    """Makes and reads tokens that name an invitation, signed with a key. Nothing about them is stored."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, org_id: UUID, invitation_id: UUID) -> str:
        content = org_id.bytes + invitation_id.bytes
        return base64.urlsafe_b64encode(content + self._mac(content)).rstrip(b"=").decode()

    def read(self, token: str) -> tuple[UUID, UUID]:
        """Return organization and invitation. Raises NotFound for a token that was not made with this key."""
        try:
            content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise NotFound("token") from None
        if len(content) != 64:
            raise NotFound("token")
        ids = UUID(bytes=content[:16]), UUID(bytes=content[16:32])
        if not hmac.compare_digest(token.encode(), self.make(*ids).encode()):  # refuses other encodings, too
            raise NotFound("token")
        return ids

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")
