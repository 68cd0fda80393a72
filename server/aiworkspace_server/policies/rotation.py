"""Re-encryption of all provider keys of organizations, after the first secret was changed."""

from ..kit.postgres import Database
from . import store
from .vault import SealBroken, Vault


async def rotate_keys(db: Database, vault: Vault) -> tuple[int, int]:
    """Encrypt all keys with the first secret. Return the number of keys encrypted, and of those no secret decrypts."""
    sealed = lost = 0
    async with db.read() as tx:
        org_ids = await store.list_orgs_with_keys(tx)
    for org_id in org_ids:
        async with db.write(org_id) as tx:
            for key in await store.lock_keys(tx):
                try:
                    key.secret = vault.reseal(key.secret)
                    sealed += 1
                except SealBroken:
                    lost += 1
    return sealed, lost
