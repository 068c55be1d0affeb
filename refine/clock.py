"""How long each stage of a chain of generators takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

Item = TypeVar("Item")


class Clock:
    """Seconds by stage, each with the stages it draws on. Stages may run in different threads."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def times(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; the time that making them takes goes to `stage`."""
        source = iter(items)
        while True:
            begun = perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self.seconds[stage] += perf_counter() - begun
            yield item

    @contextmanager
    def running(self) -> Iterator[None]:
        """The time inside goes to "all"."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.seconds["all"] += perf_counter() - begun
