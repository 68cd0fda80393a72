"""Keys at rest: what is stored is of use to nobody without the secret, nor for anybody else."""

import secrets
from uuid import uuid4

import pytest

from aiworkspace_server.policies.vault import SealBroken, Vault

OLD, NEW = secrets.token_urlsafe(48), secrets.token_urlsafe(48)
ORG, OTHER = uuid4(), uuid4()
SECRET = "sk-canary-of-a-vault"


def test_what_is_sealed_is_opened_and_not_read() -> None:
    vault = Vault([OLD])
    sealed = vault.seal(ORG, "openai", SECRET)
    assert SECRET.encode() not in sealed
    assert vault.seal(ORG, "openai", SECRET) != sealed
    assert vault.open(ORG, "openai", sealed) == SECRET


def test_a_row_that_was_copied_opens_nothing() -> None:
    sealed = Vault([OLD]).seal(ORG, "openai", SECRET)
    for org_id, provider in ((OTHER, "openai"), (ORG, "anthropic"), (ORG, "open"), (ORG, "openai\0sk")):
        with pytest.raises(SealBroken):
            Vault([OLD]).open(org_id, provider, sealed)


def test_other_secrets_open_and_do_not_seal() -> None:
    sealed = Vault([OLD]).seal(ORG, "openai", SECRET)
    assert Vault([NEW, OLD]).open(ORG, "openai", sealed) == SECRET
    with pytest.raises(SealBroken):
        Vault([NEW]).open(ORG, "openai", sealed)
    with pytest.raises(SealBroken):
        Vault([OLD]).open(ORG, "openai", Vault([NEW, OLD]).seal(ORG, "openai", SECRET))


def test_what_is_resealed_needs_the_old_secret_no_more() -> None:
    sealed = Vault([OLD]).seal(ORG, "openai", SECRET)
    assert Vault([NEW]).open(ORG, "openai", Vault([NEW, OLD]).reseal(sealed)) == SECRET
    with pytest.raises(SealBroken):
        Vault([NEW]).reseal(sealed)


@pytest.mark.parametrize("damage", [b"", b"nonsense", bytes(200)])
def test_what_was_never_sealed_opens_nothing(damage: bytes) -> None:
    with pytest.raises(SealBroken):
        Vault([OLD]).open(ORG, "openai", damage)
