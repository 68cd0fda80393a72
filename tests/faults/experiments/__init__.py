"""Every experiment, by its name in the table."""

from collections.abc import Awaitable, Callable
from random import Random

from ..site import Site
from ..verdict import Figures
from . import (
    attempts,
    budgets,
    clients,
    clocks,
    disks,
    documents,
    kills,
    links,
    pools,
    providers,
    replacements,
    stores,
)

Experiment = Callable[[Site, Random], Awaitable[Figures]]

EXPERIMENTS: dict[str, Experiment] = {
    **kills.EXPERIMENTS,
    **providers.EXPERIMENTS,
    **attempts.EXPERIMENTS,
    **clients.EXPERIMENTS,
    **budgets.EXPERIMENTS,
    **stores.EXPERIMENTS,
    **links.EXPERIMENTS,
    **pools.EXPERIMENTS,
    **clocks.EXPERIMENTS,
    **replacements.EXPERIMENTS,
    **documents.EXPERIMENTS,
    **disks.EXPERIMENTS,
}
