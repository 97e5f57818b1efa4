"""Pairs of charts: text inside the canvas and apart, exactly the recorded change, few pixels changed, same bytes."""

import argparse
import pickle
import random
import time
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from vision_zero.make_data.charts.drawing import draw_charts
from vision_zero.make_data.charts.edits import apply, propose
from vision_zero.make_data.charts.maker import ChartMaker, add_arguments, from_arguments
from vision_zero.make_data.charts.sources import KINDS, value_range
from vision_zero.make_data.charts.styles import contrast, styles
from vision_zero.make_data.charts.tables import ChartTable
from vision_zero.make_data.maker import Rejected, changed_share

N_PAIRS = 24
MAKER = ChartMaker(parts_per_table=20)


def planned_pairs(maker: ChartMaker, n: int, seed: int = 0):
    """The first `n` pairs that are not rejected: their plans, what was made, and the figures."""
    number = 0
    while n:
        rng = random.Random(f"test-charts/{seed}/{number}")
        number += 1
        try:
            plan = maker.plan(rng)
            drawn = maker.draw(plan)
            made = maker.pair(plan, drawn)
        except Rejected:
            continue
        n -= 1
        yield plan, made, drawn


def boxes(figure):
    """(text, x0, y0, x1, y1) in pixels by matplotlib, of all that is shown; of turned texts the box round them."""
    renderer = figure.canvas.get_renderer()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not axes.axison or not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible() and text not in hidden:
            box = text.get_window_extent(renderer)
            yield text, box.x0, box.y0, box.x1, box.y1


def check_text(figure) -> None:
    width, height = figure.canvas.get_width_height()
    found = list(boxes(figure))
    assert found
    for text, x0, y0, x1, y1 in found:
        assert x0 >= 0, text
        assert y0 >= 0, text
        assert x1 <= width, text
        assert y1 <= height, text
    straight = [one for one in found if one[0].get_rotation() % 90 == 0]
    for (a, ax0, ay0, ax1, ay1), (b, bx0, by0, bx1, by1) in combinations(straight, 2):
        assert min(ax1, bx1) - max(ax0, bx0) <= 1 or min(ay1, by1) - max(ay0, by0) <= 1, (a, b)


def differences(before: dict, after: dict) -> dict:
    """Where two tables as JSON differ: path -> (before, after)."""
    found = {}
    for key in ("title", "row_name", "source"):
        if before[key] != after[key]:
            found[key] = (before[key], after[key])
    for r, (one, other) in enumerate(zip(before["rows"], after["rows"], strict=True)):
        if one != other:
            found["row", r] = (one, other)
    for s, (one, other) in enumerate(zip(before["series"], after["series"], strict=True)):
        if one["name"] != other["name"]:
            found["series", s] = (one["name"], other["name"])
        assert one["unit"] == other["unit"]
        for r, (x, y) in enumerate(zip(one["values"], other["values"], strict=True)):
            if x != y:
                found["value", s, r] = (x, y)
    return found


def check_change(meta: dict, min_difference: float = 0.2) -> None:
    """The tables differ by what the record says, and by nothing else; what was swapped differs visibly."""
    change, table = meta["change"], meta["table"]
    found = differences(table, meta["edited_table"])
    pairs = list(zip(change["indices"], zip(change["before"], change["after"], strict=True), strict=True))
    if change["edit"] == "labels":
        key = "row" if change["of"] == "rows" else "series"
        assert found == {(key, index): values for index, values in pairs}
        assert change["before"] == change["after"][::-1]
        return
    s = change["series_index"]
    assert table["series"][s]["name"] == change["series"]
    assert found == {("value", s, index): values for index, values in pairs if values[0] != values[1]}
    assert change["after"] == change["before"][::-1]
    values = [v for one in table["series"] for v in one["values"]]
    if meta["kind"] == "scatter":
        values = table["series"][1]["values"]
    zero = [] if meta["kind"] in ("line", "scatter") else [0.0]
    reach = max(values + zero) - min(values + zero)
    if change["edit"] == "values":
        a, b = change["before"]
        assert abs(a - b) >= min_difference * reach
        assert len(found) == 2
    else:
        assert meta["kind"] in ("line", "area", "scatter")
        assert max(abs(a - b) for _, (a, b) in pairs) >= min_difference * reach / 2


def check_pairs(maker: ChartMaker, n: int) -> dict[str, object]:
    """Everything that a pair must be, of `n` of them. Returns figures to print."""
    start = time.process_time()
    shares, tables, seen, kinds = [], set(), set(), Counter()
    for plan, made, drawn in planned_pairs(maker, n):
        for one in drawn:
            check_text(one.figure)
        check_change(dict(made.meta))
        assert made.original.size == made.edited.size == maker.size
        before, after = (np.asarray(image, dtype=int) for image in (made.original, made.edited))
        share = (np.abs(before - after).max(axis=2) > 25).mean()
        assert maker.changed[0] <= share <= maker.changed[1]
        assert made.meta["change"]["changed_pixels"] == pytest.approx(share, abs=1e-5)
        assert made.documents["tables/table"] == made.meta["table"]
        assert made.documents["tables/edited_table"] == made.meta["edited_table"]
        assert made.documents["tables/change"] == made.meta["change"]
        shares.append(share)
        tables.add(made.meta["table_id"])
        seen.add(made.meta["style"])
        kinds[plan.kind] += 1
    return {
        "seconds a chart, checks included": (time.process_time() - start) / n / 2,
        "changed pixels, quantiles": np.quantile(shares, [0, 0.05, 0.5, 0.95, 1]).round(4).tolist(),
        "tables": len(tables),
        "styles": len(seen),
        "kinds": dict(kinds),
    }


def test_text_is_inside_and_apart_and_the_change_is_the_recorded_one() -> None:
    assert len(check_pairs(MAKER, N_PAIRS)["kinds"]) >= 6


@pytest.mark.slow
def test_two_hundred_pairs() -> None:
    print(check_pairs(ChartMaker(), 200))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind: str) -> None:
    _plan, made, drawn = next(planned_pairs(ChartMaker(kinds=(kind,), parts_per_table=5), 1))
    assert made.meta["kind"] == kind
    check_text(drawn[0].figure)


def test_small_canvas() -> None:
    for _plan, _made, drawn in planned_pairs(ChartMaker(parts_per_table=5, size=(320, 240)), 4):
        check_text(drawn[0].figure)


def test_the_same_generator_makes_the_same_bytes_in_another_copy_of_the_maker() -> None:
    copy = pickle.loads(pickle.dumps(MAKER))
    for (_, made, _), (_, again, _) in zip(planned_pairs(MAKER, 2), planned_pairs(copy, 2), strict=True):
        assert made.original.tobytes() == again.original.tobytes()
        assert made.edited.tobytes() == again.edited.tobytes()
        assert made.meta == again.meta


TABLES = st.builds(
    lambda columns, timed: ChartTable(
        "",
        "",
        tuple(f"r{r}" for r in range(6)),
        tuple(f"s{s}" for s in range(len(columns))),
        ("",) * len(columns),
        tuple(map(tuple, columns)),
        "any",
        timed,
    ),
    st.lists(st.lists(st.integers(-50, 50).map(float), min_size=6, max_size=6), min_size=2, max_size=3),
    st.booleans(),
)


@given(TABLES, st.sampled_from(KINDS), st.sampled_from(["values", "labels", "trend"]), st.integers(0, 10**6))
@settings(deadline=None)
def test_any_change_is_an_involution_that_can_be_seen(table, kind, edit, seed) -> None:
    change = propose(table, kind, edit, 0.2, random.Random(seed))
    if change is None:
        return
    edited = apply(table, change)
    check_change({"kind": kind, "table": table.as_json(), "edited_table": edited.as_json(), "change": change.as_json()})
    assert edited != table
    assert apply(edited, change).values == apply(table, change).values  # `after` is written, whatever was there
    assert sorted(edited.values[change.series_index]) == sorted(table.values[change.series_index])
    assert value_range(edited, kind) == value_range(table, kind)


def test_times_keep_their_order() -> None:
    table = ChartTable("", "Year", ("2001", "2002"), ("a",), ("",), ((1.0, 9.0),), "any", timed=True)
    assert propose(table, "bar", "labels", 0.2, random.Random(0)) is None


def test_too_small_a_difference_is_no_change() -> None:
    table = ChartTable("", "", ("a", "b"), ("s",), ("",), ((90.0, 100.0),), "any")
    assert propose(table, "bar", "values", 0.2, random.Random(0)) is None  # 10 of 100, for bars begin at zero
    assert propose(table, "line", "values", 0.2, random.Random(0)) is not None


def test_signs_of_mathematics_are_drawn_as_they_are_and_unknown_letters_are_refused() -> None:
    rows = ("$5_a$", "b^{2}", "\\frac", "{series}")
    table = ChartTable("Price in $ of $x$", "", rows, ("s",), ("$",), ((1.0, 5.0, 2.0, 4.0),), "any")
    (drawn,) = draw_charts([table], "bar", styles()[0], (640, 480))
    assert {text.get_text() for text, *_ in boxes(drawn.figure)} >= {*rows, table.title, "$4"}
    with pytest.raises(Rejected, match="letters that the font lacks"):
        draw_charts([ChartTable("図", "", rows, ("s",), ("",), table.values, "any")], "bar", styles()[0], (640, 480))


def test_long_names_are_wrapped_turned_or_shortened_and_never_overlap() -> None:
    names = tuple(f"A rather long name of a category, number {n}" for n in range(6))
    values = ((3.0, 5.0, 2.0, 7.0, 1.0, 4.0),)
    refused = set()
    for kind in ("bar", "horizontal"):
        for style in styles()[::101]:
            for rows in (names, tuple(name.replace(" ", "") for name in names)):
                table = ChartTable("A title " * 20, "", rows, ("s",), ("units",), values, "any")
                try:
                    (drawn,) = draw_charts([table], kind, style, (640, 480))
                except Rejected as rejected:
                    refused.add(str(rejected))
                    continue
                check_text(drawn.figure)
    assert refused <= {"shortened labels are equal", "no room for the plot"}


def test_changed_share_counts_pixels_by_their_largest_channel() -> None:
    from PIL import Image

    one = Image.new("RGB", (10, 10), (100, 100, 100))
    other = one.copy()
    other.putpixel((0, 0), (100, 126, 100))
    other.putpixel((1, 0), (125, 125, 75))
    assert changed_share(one, other) == 0.01


def test_styles_can_be_told_from_their_paper() -> None:
    assert len({style.name for style in styles()}) == len(styles())
    assert all(contrast(colour, s.theme.panel) >= 2 for s in styles() for colour in s.palette.colours[:5])
    assert all(contrast(style.theme.ink, style.theme.paper) >= 4.5 for style in styles())
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_options() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert from_arguments(parser.parse_args([])) == ChartMaker()
    args = parser.parse_args(["--kinds", "pie", "--edits", "values", "--changed", "0.01", "0.2"])
    maker = from_arguments(args)
    assert (maker.kinds, maker.edits, maker.changed) == (("pie",), ("values",), (0.01, 0.2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("bars",)}, "kinds must be some of"),
        ({"edits": ()}, "edits must be some of"),
        ({"kinds": ("bar",), "edits": ("trend",)}, "no chart of bar can have an edit of trend"),
        ({"tables": ()}, "no source of tables"),
        ({"min_difference": 0.0}, "min_difference"),
        ({"changed": (0.5, 0.1)}, "changed must be"),
        ({"size": (100, 100)}, "100x100"),
    ],
)
def test_options_that_make_no_sense(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ChartMaker(**options)


def test_summary_counts_tables_and_styles(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("Fruit,Weight\nApple,5\nPear,9\nPlum,2\nFig,7\n")
    (tmp_path / "b.csv").write_text("nothing here\n")
    summary = ChartMaker(tables=(str(tmp_path),), kinds=("bar", "line")).summary()
    assert summary["source_tables"] == 1
    assert summary["files_left_out"] == {"one column only": 1}
    assert list(summary["tables_by_kind"]) == ["bar"]  # fruits are no times
    assert summary["styles"] == len(styles())
