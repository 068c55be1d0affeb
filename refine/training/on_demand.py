"""A sequence whose items are made when they are asked for: decoded from disk, or composed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

Item = TypeVar("Item")


class OnDemand(Sequence[Item]):
    """What is left to a subclass is `__len__` and `make`; a slice is a list of made items."""

    @abstractmethod
    def make(self, number: int) -> Item:
        """The item of a number from 0 to the length - 1."""

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        numbers = range(len(self))[index]  # raises IndexError beyond the ends, which is what ends an iteration
        return self.make(numbers) if isinstance(numbers, int) else [self.make(number) for number in numbers]
