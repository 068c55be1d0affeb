"""The bar on the terminal: one for each step that takes time, never over its end."""

from __future__ import annotations

import pytest

from refine import infer


class Shown:
    """What tqdm would show."""

    def __init__(self, total: int, desc: str) -> None:
        self.total, self.desc, self.n, self.is_open = total, desc, 0, True

    def update(self, count: int) -> None:
        self.n += count
        assert 0 <= self.n <= self.total

    def set_postfix(self, **_: object) -> None:
        pass

    def close(self) -> None:
        self.is_open = False


def test_a_bar_for_each_step_that_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Shown] = []

    def show(total: int, desc: str, **_: object) -> Shown:
        made.append(Shown(total, desc))
        return made[-1]

    monkeypatch.setattr(infer, "tqdm", show)
    with infer.Bar("a.tif") as bar:
        for share in (0.25, 0.625, 1.0):
            bar.prepare("sweep", share)
        bar.prepare("first mask", 1.0)  # one step: done before it could be shown
        bar.begin(0, 2, 2, 10)
        bar.advance(1, 2, 3)
        bar.advance(1, 4, 1)
        bar.begin(1, 2, 1, 5)
        bar.advance(1, 0, 5)
    assert [(one.desc, one.n, one.total) for one in made] == [
        ("a.tif sweep", 100, 100), ("a.tif 1/2", 10, 10), ("a.tif 2/2", 5, 5)
    ]  # fmt: skip
    assert not any(one.is_open for one in made)
