"""Tokens of invitations, which say nothing to whoever has no key."""

import base64
import binascii
import hmac
from uuid import UUID

from ..kit.errors import NotFound


class InvitationTokens:
    """Tokens that name an invitation and prove that this server made it. Nothing about them is stored."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, org_id: UUID, invitation_id: UUID) -> str:
        content = org_id.bytes + invitation_id.bytes
        return base64.urlsafe_b64encode(content + self._mac(content)).rstrip(b"=").decode()

    def read(self, token: str) -> tuple[UUID, UUID]:
        """Organization and invitation. Raises NotFound for what this server did not make."""
        try:
            content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise NotFound("token") from None
        if len(content) != 64:
            raise NotFound("token")
        ids = UUID(bytes=content[:16]), UUID(bytes=content[16:32])
        if not hmac.compare_digest(token.encode(), self.make(*ids).encode()):  # also other spellings of one content
            raise NotFound("token")
        return ids

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")
