"""The learning rate over a run, and what validations decide about it: when it drops, and when training ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi

from refine.training.config import Schedule


@dataclass(frozen=True, slots=True)
class Gains:
    """What the validations of a run have shown; saved with its state, so that a resumed run decides alike.

    `best` is the highest score; `mark` the last one that gained at least `min_gain` on the one before it, `stale`
    the validations since then, `waited` those since then or since the last drop of the rate, `drops` their number.
    """

    best: float | None = None
    mark: float | None = None
    stale: int = 0
    waited: int = 0
    drops: int = 0

    def after(self, score: float, schedule: Schedule) -> Gains:
        """With one more validation; the rate drops when more than `patience` of them gained nothing."""
        best = score if self.best is None else max(self.best, score)
        if self.mark is None or score > self.mark + schedule.min_gain:
            return replace(self, best=best, mark=score, stale=0, waited=0)
        stale, waited = self.stale + 1, self.waited + 1
        if schedule.decay == "plateau" and waited > schedule.patience:
            return replace(self, best=best, stale=stale, waited=0, drops=self.drops + 1)
        return replace(self, best=best, stale=stale, waited=waited)

    def ends(self, schedule: Schedule) -> bool:
        """Whether `early_stop` validations in a row gained nothing, or one reached `stop_at`."""
        return 0 < schedule.early_stop <= self.stale or self.reaches(schedule)

    def reaches(self, schedule: Schedule) -> bool:
        """Whether a validation reached the score that the schedule wants."""
        return 0 < schedule.stop_at <= (self.best or 0)


def learning_rate_share(step: int, schedule: Schedule, drops: int = 0) -> float:
    """Share of the peak rate at `step`: a linear warm-up, then as `schedule.decay` says, never below `final_share`.

    `drops`: how often validations have lowered the rate so far; it counts for "plateau" alone.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.decay == "cosine":
        done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
        return schedule.final_share + (1 - schedule.final_share) * (1 + cos(pi * min(1.0, done))) / 2
    if schedule.decay == "step":
        drops = sum(step >= share * schedule.steps for share in schedule.drops)
    elif schedule.decay == "constant":
        drops = 0
    return max(schedule.final_share, float(schedule.drop_factor**drops))
