"""Drawings as a source: the same pairs as `drawn_pairs`, beside files, split, and never reaching the held-out ones."""

from pathlib import Path

import pytest

from vision_zero.data.drawn_scenes import drawn_pair, drawn_pairs
from vision_zero.data.pairs import PairSourceError, check_pairs, load_pairs

DRAWN = Path(__file__).resolve().parent.parent.parent / "data" / "drawn"


def test_numbers_count_from_the_first() -> None:
    assert list(load_pairs("drawn:3")) == drawn_pairs(range(3))
    assert list(load_pairs("drawn:2@10000")) == drawn_pairs([10000, 10001])
    assert list(load_pairs("drawn:2@heldout")) == [drawn_pair(1 << 40), drawn_pair((1 << 40) + 1)]


def test_they_open_and_say_what_they_show() -> None:
    pairs = load_pairs("drawn:5@heldout")
    report = check_pairs(pairs)
    assert (report.n_pairs, report.n_edited, report.n_identical) == (5, 5, 0)
    assert all(pair.meta["original_scene"]["objects"] for pair in pairs)


def test_they_are_split_and_mixed_like_any_source() -> None:
    parts = [{pair.id for pair in load_pairs("drawn:10", split=s, holdout=0.3)} for s in ("train", "heldout")]
    assert [len(part) for part in parts] == [7, 3]
    assert not parts[0] & parts[1]
    mixed = load_pairs(["drawn:2", str(DRAWN)])
    assert mixed[1].id.endswith("drawn-1")
    assert len(mixed) > 2


@pytest.mark.parametrize(
    "source", ["drawn:", "drawn:0", "drawn:-1", "drawn:5@", "drawn:5@x", "drawn:5@-1", f"drawn:5@{(1 << 40) - 4}"]
)
def test_what_is_no_range_of_drawings_is_refused(source: str) -> None:
    with pytest.raises(PairSourceError, match="drawings"):
        load_pairs(source)
