"""Pairs of charts: a table drawn as a chart, and the same chart of the table with one change.

Changes are those of `edits`, tables are parts of real ones (`sources`), charts are drawn by `drawing`.
"""

import argparse
import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from vision_zero.config.game import add_options, beside
from vision_zero.make_data.charts.drawing import DrawnChart, draw_charts
from vision_zero.make_data.charts.edits import EDITS, TRENDING, Change, EditKind, apply, propose
from vision_zero.make_data.charts.sources import BUILT_IN, KINDS, Kind, catalogue, load_tables
from vision_zero.make_data.charts.styles import FONTS, PALETTES, THEMES, Style, styles
from vision_zero.make_data.charts.tables import ChartTable
from vision_zero.make_data.maker import EditedPair, Make, Maker, Rejected, changed_share, check_share, option_values
from vision_zero.types import Domain


@dataclass(frozen=True)
class PlannedPair:
    table: ChartTable
    edited: ChartTable
    change: Change
    kind: Kind
    style: Style


@dataclass(frozen=True)
class ChartMaker(Maker):
    """Options of the charts; `size` is (width, height) in pixels. Raises ValueError for invalid options.

    `tables` are sources for `load_tables`, `parts_per_table` limits how many parts of one table are charted per kind,
    `min_difference` is the share of the range of values by which swapped values differ, and `changed` the least and the
    largest share of changed pixels.
    """

    tables: tuple[str, ...] = BUILT_IN
    kinds: tuple[Kind, ...] = KINDS
    edits: tuple[EditKind, ...] = EDITS
    min_difference: float = 0.2
    parts_per_table: int = 100
    changed: tuple[float, float] = (0.001, 0.4)
    size: tuple[int, int] = (640, 480)
    max_attempts: int = 50
    domain: Domain = "charts"
    name: str = "chart"
    default_n = 1000  # the paper's

    def __post_init__(self) -> None:
        for what, given, known in (("kinds", self.kinds, KINDS), ("edits", self.edits, EDITS)):
            if not given or not set(given) <= set(known):
                raise ValueError(f"{what} must be some of {' '.join(known)}, got {' '.join(given) or 'none'}")
        if not self.drawn_kinds:
            raise ValueError(f"no chart of {' '.join(self.kinds)} can have an edit of {' '.join(self.edits)}")
        if not self.tables:
            raise ValueError(f"no source of tables: give some of {' '.join(BUILT_IN)}, folders or CSV files")
        if not 0 < self.min_difference < 1:
            raise ValueError(f"min_difference must be between 0 and 1, got {self.min_difference}")
        if not 0 <= self.changed[0] < self.changed[1] <= 1:
            raise ValueError(f"changed must be two rising shares of the pixels, got {self.changed}")
        if min(self.parts_per_table, self.max_attempts) < 1:
            raise ValueError("parts_per_table and max_attempts must be at least 1")
        if min(self.size) < 160 or max(self.size) > 4096:
            raise ValueError(f"a chart is 160 to 4096 pixels wide and high, got {self.size[0]}x{self.size[1]}")

    @contextmanager
    def open(self) -> Iterator[Make]:
        """Read the tables. Raises ValueError if they cannot be read or no chart of these kinds fits any."""
        self.parts()

        def make(rng: random.Random, number: int) -> EditedPair:
            plan = self.plan(rng)
            return self.pair(plan, self.draw(plan))

        yield make

    def parts(self) -> Mapping[Kind, Sequence[ChartTable]]:
        """Tables of charts, by kind. Raises ValueError."""
        return _parts(self.tables, self.drawn_kinds, self.parts_per_table)

    def material(self) -> str:
        """Fingerprint of the tables. Raises ValueError."""
        kinds = {kind: [table.fingerprint() for table in some] for kind, some in self.parts().items()}
        return hashlib.sha256(repr(kinds).encode()).hexdigest()[:16]

    @property
    def drawn_kinds(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in self.kinds if any(kind in EDITABLE[edit] for edit in self.edits))

    def plan(self, rng: random.Random) -> PlannedPair:
        """Draw kind, style, table and change of a pair. Raises Rejected if no change of the table is visible."""
        parts = self.parts()
        kind = rng.choice(list(parts))
        style = rng.choice(styles())
        table = rng.choice(parts[kind])
        edits = [edit for edit in self.edits if kind in EDITABLE[edit]]
        rng.shuffle(edits)
        for edit in edits:
            change = propose(table, kind, edit, self.min_difference, rng)
            if change is not None:
                return PlannedPair(table, apply(table, change), change, kind, style)
        raise Rejected("no change of the table can be seen")

    def draw(self, plan: PlannedPair) -> list[DrawnChart]:
        """The original and the edited chart. Raises Rejected if a text does not fit."""
        return draw_charts([plan.table, plan.edited], plan.kind, plan.style, self.size)

    def pair(self, plan: PlannedPair, drawn: Sequence[DrawnChart]) -> EditedPair:
        """Raises Rejected if too few or too many pixels changed."""
        original, edited = (one.image for one in drawn)
        share = changed_share(original, edited)
        check_share(share, self.changed, "too few pixels changed", "too many pixels changed")
        change = {**plan.change.as_json(), "changed_pixels": round(share, 5)}
        documents = {"table": plan.table.as_json(), "edited_table": plan.edited.as_json(), "change": change}
        meta = {"kind": plan.kind, "style": plan.style.name, "table_id": plan.table.fingerprint(), **documents}
        return EditedPair(original, edited, meta, {f"tables/{name}": one for name, one in documents.items()})

    def summary(self) -> dict[str, Any]:
        """Options, and the numbers of source tables, of distinct parts by kind, and of styles."""
        loaded = _loaded(self.tables)
        parts = self.parts()
        return {
            "options": asdict(self),
            "source_tables": len(loaded.tables),
            "files_left_out": dict(loaded.left_out.most_common()),
            "columns_left_out": list(loaded.doubtful),
            "tables": len({part.fingerprint() for some in parts.values() for part in some}),
            "tables_by_kind": {kind: len(some) for kind, some in parts.items()},
            "styles": len(styles()),
            "themes": len(THEMES),
            "palettes": len(PALETTES),
            "fonts": len(FONTS),
        }


# Kinds of chart by edit: points have no labels to swap, and only lines, areas and points have a trend.
NAMED = [kind for kind in KINDS if kind != "scatter"]
EDITABLE: Mapping[EditKind, Collection[Kind]] = {"values": KINDS, "labels": NAMED, "trend": TRENDING}


# Cached by options, as a maker is pickled into workers and asks often.
_loaded = lru_cache(maxsize=4)(load_tables)


@lru_cache(maxsize=4)
def _parts(sources: tuple[str, ...], kinds: tuple[Kind, ...], limit: int) -> Mapping[Kind, Sequence[ChartTable]]:
    loaded = _loaded(sources)
    found = {kind: catalogue(loaded.tables, kind, limit) for kind in kinds}
    fitting = {kind: some for kind, some in found.items() if some}
    if not fitting:
        reason = f"none of {len(loaded.tables)} tables fits a chart of {' '.join(kinds)}"
        raise ValueError(f"{' '.join(sources)}: {reason}")
    return fitting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, beside(__file__), vars(ChartMaker), kinds=KINDS, edits=EDITS)


def from_arguments(args: argparse.Namespace) -> ChartMaker:
    """Raises ValueError, with the option's name, for an invalid one."""
    kinds, edits = tuple(dict.fromkeys(args.kinds)), tuple(dict.fromkeys(args.edits))
    others = option_values(args, "tables", "min_difference", "parts_per_table", "changed", "size")
    return ChartMaker(kinds=kinds, edits=edits, **others)
