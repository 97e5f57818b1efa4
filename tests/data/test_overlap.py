"""Which pairs are in two sources, whatever they are called there."""

import os
from pathlib import Path

import pytest

from tests.data.drawn_files import write_pairs
from vision_zero.data.contamination import shared_ids
from vision_zero.data.pairs import load_pairs


def test_drawings_are_compared_by_their_numbers() -> None:
    assert shared_ids(load_pairs("drawn:4@2"), load_pairs("drawn:4")) == ["drawn-2", "drawn-3"]
    assert shared_ids(load_pairs("drawn:4@heldout"), load_pairs("drawn:4")) == []


def test_files_are_compared_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a list of sources ids are other ones; in two folders different pictures have the same."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        write_pairs(folder, 2, seed=1)
    monkeypatch.chdir(tmp_path)
    ids = [pair.id for pair in load_pairs("one")]
    assert ids == [pair.id for pair in load_pairs("other")]
    assert shared_ids(load_pairs("one"), load_pairs("other")) == []
    assert shared_ids(load_pairs(os.path.join("other", "..", "one")), load_pairs([str(other), str(one)])) == ids
