"""Re-encryption of all secrets of endpoints, after the first secret of the vault was changed."""

from ..kit.postgres import Database
from ..policies.vault import SealBroken, Vault
from . import store


async def rotate_secrets(db: Database, vault: Vault) -> tuple[int, int]:
    """Encrypt all secrets again. Return how many were encrypted, and how many could not be decrypted."""
    sealed = lost = 0
    async with db.read() as tx:
        org_ids = await store.list_orgs(tx)
    for org_id in org_ids:
        async with db.write(org_id) as tx:
            for endpoint in await store.lock_endpoints(tx):
                try:
                    endpoint.secret = vault.reseal(endpoint.secret)
                    sealed += 1
                    if endpoint.previous_secret:
                        endpoint.previous_secret = vault.reseal(endpoint.previous_secret)
                        sealed += 1
                except SealBroken:
                    lost += 1
    return sealed, lost
