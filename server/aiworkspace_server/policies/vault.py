"""Encryption of organizations' provider keys and webhook secrets. The database alone reveals none of them."""

import base64
from collections.abc import Iterable
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from ..kit.keys import derive
from ..settings import Settings


class SealBroken(Exception):
    """The stored value was not sealed with a configured secret, or not for this organization and purpose."""


class Vault:
    """Seals with the first secret, opens with any of them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        keys = [base64.urlsafe_b64encode(derive(secret, "provider keys")) for secret in secrets]
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    @classmethod
    def from_settings(cls, settings: Settings) -> "Vault":
        secrets = settings.encryption_secret, *(settings.encryption_other_secrets or ())
        return cls(secret.get_secret_value() for secret in secrets)

    def seal(self, org_id: UUID, name: str, secret: str) -> bytes:
        """Return an encrypted secret. `name` says what it is for: a provider, or a webhook endpoint."""
        return self._fernet.encrypt(_bound_to(org_id, name) + secret.encode())

    def open(self, org_id: UUID, name: str, sealed: bytes) -> str:
        """Return the secret. Raises SealBroken for a row that was copied from another organization or name."""
        try:
            text = self._fernet.decrypt(sealed)
        except InvalidToken:
            raise SealBroken from None
        owner = _bound_to(org_id, name)
        if not text.startswith(owner):
            raise SealBroken
        return text[len(owner) :].decode()

    def reseal(self, sealed: bytes) -> bytes:
        """Return the value, sealed with the first secret."""
        try:
            return self._fernet.rotate(sealed)
        except InvalidToken:
            raise SealBroken from None


def _bound_to(org_id: UUID, name: str) -> bytes:
    return f"{UUID(int=org_id.int)}/{name}\0".encode()
