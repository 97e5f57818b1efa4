"""Files of instructions: templates with choices, proposals by image, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vision_zero.data.folders import PairSourceError
from vision_zero.make_data.maker import Rejected
from vision_zero.make_data.photos.instructions import DEFAULT_TEMPLATES, Instructions, filled, read_instructions


def test_our_templates_can_be_filled() -> None:
    templates = read_instructions(DEFAULT_TEMPLATES).templates
    assert len(templates) == len(set(templates)) >= 20
    for template in templates:
        told = filled(template, random.Random(0))
        assert told.endswith(".")
        assert not set(told) & set("{}|")


def test_one_of_the_choices_is_taken_and_all_are_in_turn() -> None:
    told = {filled("a {red|blue} {cat|dog}", random.Random(seed)) for seed in range(50)}
    assert told == {"a red cat", "a red dog", "a blue cat", "a blue dog"}


def test_templates_leave_comments_and_empty_lines_out(tmp_path: Path) -> None:
    file = tmp_path / "told.txt"
    file.write_text("# what follows\n\n  make it {red|blue}  \nmake it snow\n")
    read = read_instructions(file)
    assert read.templates == ("make it {red|blue}", "make it snow")
    assert {read.draw("any.jpg", random.Random(seed)) for seed in range(40)} == {
        "make it red",
        "make it blue",
        "make it snow",
    }


def test_proposals_are_those_of_the_image(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    file.write_text(
        '{"image": "a.jpg", "instruction": "one"}\n'
        '{"image": "b.jpg", "instruction": null, "reply": "?"}\n'
        '{"image": "a.jpg", "instruction": "two"}\n'
    )
    read = read_instructions(file)
    assert {read.draw("a.jpg", random.Random(seed)) for seed in range(20)} == {"one", "two"}
    for unknown in ("b.jpg", "c.jpg"):
        with pytest.raises(Rejected, match="no instruction"):
            read.draw(unknown, random.Random(0))
    with pytest.raises(Rejected):
        Instructions().draw("a.jpg", random.Random(0))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("told.csv", "x", "are a .txt file"),
        ("told.txt", "# nothing\n", "no instructions"),
        ("told.txt", "fine\na {red|} cat\n", "line 2: a choice"),
        ("told.txt", "a {red cat\n", "line 1: a brace"),
        ("told.txt", "a {red {or|blue}} cat\n", "line 1: a brace"),
        ("told.txt", "x" * 501, "line 1: an instruction is one line"),
        ("told.jsonl", '{"image": "a.jpg"}\n', "line 1: expected"),
        ("told.jsonl", '{"image": "a.jpg", "instruction": "a"}\nhalf', "line 2: not valid JSON"),
        ("told.jsonl", '{"image": "a.jpg", "instruction": " "}', "line 1: an instruction must be"),
        ("told.jsonl", '{"image": "a.jpg", "instruction": "a\\u001bb"}', "line 1: an instruction is one line"),
        ("told.jsonl", '{"image": 3, "instruction": "a"}', "line 1: expected"),
        ("told.jsonl", '{"image": "a.jpg", "instruction": null}', "no instructions"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PairSourceError, match=message) as refused:
        read_instructions(tmp_path / name)
    assert name in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PairSourceError, match="absent"):
        read_instructions(tmp_path / "absent.txt")
