"""Keys of organizations at providers, encrypted: who has the database alone has none of them."""

import base64
from collections.abc import Iterable
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from ..kit.keys import derive
from ..settings import Settings


class SealBroken(Exception):
    """What is stored was not sealed with a secret that is set, or not for this organization and provider."""


class Vault:
    """Seals with the first secret, opens with each."""

    def __init__(self, secrets: Iterable[str]) -> None:
        keys = [base64.urlsafe_b64encode(derive(secret, "provider keys")) for secret in secrets]
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    @classmethod
    def from_settings(cls, settings: Settings) -> "Vault":
        secrets = settings.encryption_secret, *(settings.encryption_other_secrets or ())
        return cls(secret.get_secret_value() for secret in secrets)

    def seal(self, org_id: UUID, provider: str, secret: str) -> bytes:
        return self._fernet.encrypt(_bound_to(org_id, provider) + secret.encode())

    def open(self, org_id: UUID, provider: str, sealed: bytes) -> str:
        """The secret. What was sealed for somebody else is no secret of theirs, wherever its row was copied to."""
        try:
            text = self._fernet.decrypt(sealed)
        except InvalidToken:
            raise SealBroken from None
        owner = _bound_to(org_id, provider)
        if not text.startswith(owner):
            raise SealBroken
        return text[len(owner) :].decode()

    def reseal(self, sealed: bytes) -> bytes:
        """The same, sealed with the first secret."""
        try:
            return self._fernet.rotate(sealed)
        except InvalidToken:
            raise SealBroken from None


def _bound_to(org_id: UUID, provider: str) -> bytes:
    return f"{UUID(int=org_id.int)}/{provider}\0".encode()
