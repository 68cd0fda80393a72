"""The cache with a time to live: what it still knows, and what it drops."""

from aiworkspace_server.kit.caches import TtlCache


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_values_expire_after_their_time_from_when_they_were_stored() -> None:
    clock = Clock()
    cache: TtlCache[str, int] = TtlCache(10, 1.0, clock)
    cache["a"], cache["b"] = 1, 2
    clock.now += 0.5
    cache["a"] = 3
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (3, 2, None)
    clock.now += 0.5
    assert ("a" in cache, "b" in cache) == (True, False)
    assert (cache.get("a"), cache.get("b")) == (3, None)
    clock.now += 0.5
    assert "a" not in cache


def test_the_oldest_values_are_dropped_when_there_are_too_many() -> None:
    cache: TtlCache[int, int] = TtlCache(3, 60.0, Clock())
    for number in (1, 2, 3, 1, 4):
        cache[number] = number
    assert [number for number in range(6) if number in cache] == [1, 3, 4]


def test_values_can_be_removed() -> None:
    cache: TtlCache[int, str] = TtlCache(10, 60.0, Clock())
    for number in range(4):
        cache[number] = "odd" if number % 2 else "even"
    cache.remove(0)
    cache.remove(99)
    cache.remove_where(lambda number, kind: kind == "odd")
    assert [number for number in range(4) if number in cache] == [2]
    cache.clear()
    assert 2 not in cache
