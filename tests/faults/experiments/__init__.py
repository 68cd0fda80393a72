"""Every experiment, by its name in the table."""

from collections.abc import Awaitable, Callable
from random import Random

from ..site import Site
from ..verdict import Figures
from . import attempts, budgets, clients, disks, documents, kills, links, providers, stores

Experiment = Callable[[Site, Random], Awaitable[Figures]]

EXPERIMENTS: dict[str, Experiment] = {
    **kills.EXPERIMENTS,
    **providers.EXPERIMENTS,
    **attempts.EXPERIMENTS,
    **clients.EXPERIMENTS,
    **budgets.EXPERIMENTS,
    **stores.EXPERIMENTS,
    **links.EXPERIMENTS,
    **documents.EXPERIMENTS,
    **disks.EXPERIMENTS,
}
