"""Joins rankings into one: reciprocal rank fusion."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple, TypeVar

_SMOOTHING = 60  # the usual constant; larger ones make the first ranks count less above the others

KeyT = TypeVar("KeyT", bound=Hashable)


class Fused(NamedTuple):
    """The score of a key and its ranks, which count from 1; None means that a ranking does not have it."""

    score: float
    ranks: tuple[int | None, ...]


def fuse(rankings: Sequence[Sequence[KeyT]]) -> dict[KeyT, Fused]:
    """Return every key of the rankings, best first. Equal scores stay in the order of the first ranking."""
    places = [{key: rank for rank, key in enumerate(ranking, 1)} for ranking in rankings]
    fused: dict[KeyT, Fused] = {}
    for key in dict.fromkeys(key for ranking in rankings for key in ranking):
        ranks = tuple(each.get(key) for each in places)
        fused[key] = Fused(sum(1 / (_SMOOTHING + rank) for rank in ranks if rank), ranks)
    return dict(sorted(fused.items(), key=lambda item: -item[1].score))
