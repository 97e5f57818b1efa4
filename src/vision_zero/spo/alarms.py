"""Alarms: self-play that falls silent, colludes or flees into N/A says so, with what to do.

A rising reward says none of this: a silent or colluding game pays as well as a good one. Limits are those that failed
runs pass and few healthy ones do (docs/results.md has both counts; no failed run recorded what "one clue" looks at).
Copied clues have no alarm: they rise in every run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from vision_zero.types import GameSummary

Figures = Mapping[str, float] | Mapping[str, Sequence[float | None]]
"""Numbers by name, or value, low and high; None: no interval."""
IN_A_ROW = 5
"""Iterations in a row after which an iteration's alarm rings: one iteration has few games."""


@dataclass(frozen=True)
class Alarm:
    """Rings while all of `figure`'s interval is above or below a limit: `above`, `below`, or a share of the start's."""

    name: str
    figure: str
    says: str
    above: float | None = None
    below: float | None = None
    below_start: float | None = None

    def rings(self, figures: Figures, start: Figures | None = None) -> bool:
        """False where the figure, or the start's, is not there."""
        if self.figure not in figures:
            return False
        _, low, high = _interval(figures[self.figure])
        limit = self.below
        if self.below_start is not None:
            if start is None or self.figure not in start:
                return False
            began = _interval(start[self.figure])[0]
            limit = self.below_start * began if began > 0 else None  # of nothing, nothing can be lost
        return (self.above is not None and low > self.above) or (limit is not None and high < limit)

    def words(self, figures: Figures) -> str:
        """What it says, and how to go on. Raises KeyError without the figure."""
        said = self.says.format(_interval(figures[self.figure])[0])
        return f"{said}, and go on from an earlier checkpoint (--resume_from)"


def _interval(figure: float | Sequence[float | None]) -> tuple[float, float, float]:
    value, low, high = (figure,) * 3 if isinstance(figure, int | float) else figure
    assert value is not None
    return value, value if low is None else low, value if high is None else high


_TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
OF_AN_ITERATION = tuple(Alarm(**row) for row in _TABLE["iteration"])
"""Alarms on the metrics of an iteration; they ring when they hold IN_A_ROW times in a row."""
OF_THE_ARENA = tuple(Alarm(**row) for row in _TABLE["arena"])
"""Alarms on the figures of one win rate."""


def clue_shares(games: Sequence[GameSummary]) -> dict[str, float]:
    """`most_common`: share of the parsed clues of all games that are the most common text; `repeated`: share of those
    that somebody said before in their game. Texts are compared in lower case. Without parsed clues there are none."""
    said = Counter(clue for game in games for clue in game.clues)
    if not (n := said.total()):
        return {}
    repeated = sum(len(game.clues) - len(set(game.clues)) for game in games)
    return {"most_common": max(said.values()) / n, "repeated": repeated / n}
