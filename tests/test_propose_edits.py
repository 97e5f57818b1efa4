"""Edits proposed by a policy: the real tiny model, a scripted one, a run that goes on, broken completions."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from run_scripts import propose_edits
from vision_zero.data.pairs import load_pairs
from vision_zero.make_data.photos.instructions import read_instructions
from vision_zero.rollout.policy import TurnRequest
from vision_zero.run_folder import append_json_line
from vision_zero.types import Completion

ROOT = Path(__file__).resolve().parents[1]
PHOTOS, MODEL = ROOT / "data" / "photos", ROOT / "data" / "tiny_vlm"


@pytest.fixture
def three(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cat.jpg", "koala.jpg", "pig.jpg"):
        shutil.copy(PHOTOS / name, folder)
    return folder


class Scripted:
    """Answers by the name of the photograph. `koala.jpg` gets no box."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        self.asked.append([request.game.pair.id for request in requests])
        assert all(request.image.size == request.game.pair.image.open().size for request in requests)
        assert all("\\boxed{}" in request.prompt.text for request in requests)
        return [
            Completion(
                "it has fur" if request.game.pair.id == "koala.jpg" else f"so \\boxed{{paint {request.game.pair.id}}}"
            )
            for request in requests
        ]


def test_proposals_of_a_scripted_policy(three: Path) -> None:
    policy = Scripted()
    proposals = list(propose_edits.propose(policy, load_pairs(three), [0, 1, 2], batch=2, seed=0, max_new_tokens=16))
    assert policy.asked == [["cat.jpg", "koala.jpg"], ["pig.jpg"]]
    assert [one["image"] for one in proposals] == ["cat.jpg", "koala.jpg", "pig.jpg"]
    assert [one["instruction"] for one in proposals] == ["paint cat.jpg", None, "paint pig.jpg"]


def test_what_could_not_be_read_is_kept_and_counted_but_never_told(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    for proposal in propose_edits.propose(Scripted(), load_pairs(three), [0, 1, 2], batch=8, seed=0, max_new_tokens=16):
        append_json_line(out, proposal)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"image": "cat.jpg", "instruction": "paint cat.jpg"},
        {"image": "koala.jpg", "instruction": None, "completion": "it has fur"},
        {"image": "pig.jpg", "instruction": "paint pig.jpg"},
    ]
    assert propose_edits.finished(out) == {"cat.jpg": True, "koala.jpg": False, "pig.jpg": True}
    assert read_instructions(out).draw("pig.jpg", random.Random(0)) == "paint pig.jpg"


def run(three: Path, out: Path, *more: str) -> int:
    given = [
        str(three),
        "--model",
        str(MODEL),
        "--out",
        str(out),
        "--use_cpu",
        "--max_new_tokens",
        "12",
        "--batch",
        "2",
    ]
    return propose_edits.main([*given, "--max_pixels", "12544", *more])


def test_a_run_with_a_model_that_goes_on_where_it_stopped(
    three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    assert run(three, whole) == 0
    assert "3 photographs, 3 asked now" in capsys.readouterr().out
    lines = whole.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["image"] for line in lines] == ["cat.jpg", "koala.jpg", "pig.jpg"]
    stopped.write_bytes(lines[0] + lines[1][:20])
    assert run(three, stopped) == 0
    assert "3 photographs, 2 asked now" in capsys.readouterr().out
    assert stopped.read_bytes() == whole.read_bytes()
    assert run(three, stopped) == 0
    assert "3 photographs, 0 asked now" in capsys.readouterr().out


def test_what_cannot_be_used_is_said(three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": 1}\n')
    assert run(three, other) == 1
    assert "other.jsonl, line 1" in capsys.readouterr().err
    assert run(tmp_path / "absent", tmp_path / "out.jsonl") == 1
    assert "absent" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(three, tmp_path / "out.jsonl", "--batch", "0")
    with pytest.raises(SystemExit):
        run(three, tmp_path / "out.csv")
