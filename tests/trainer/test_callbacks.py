"""Trackers in a real run: wandb offline with its table of games, TensorBoard's files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from wandb.proto import wandb_internal_pb2

from tests.process_helpers import flags
from tests.report_helpers import OPTIONS
from vision_zero.data.drawn_scenes import drawn_pairs
from vision_zero.rollout.record import seen_images
from vision_zero.run_folder import read_json_lines
from vision_zero.train import main

BLOCK = 32 * 1024
FULL, LAST = 1, 4


def records(file: Path) -> Iterator[bytes]:
    """Of a .wandb file, which is a log of LevelDB after 7 bytes of its own: blocks of pieces, each with a head of 7."""
    data = file.read_bytes()
    at, record = 7, b""
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            yield record
            record = b""


COLUMNS = "iteration, stage, pair, civilians see, spy sees, spy, clues, votes, outcome, spy's reward, civilians' reward"


def kept(folder: Path) -> list[wandb_internal_pb2.Record]:
    """What an offline run would send, in order."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return [wandb_internal_pb2.Record.FromString(data) for data in records(file)]


def test_wandb_keeps_the_numbers(recorded_run: Path) -> None:
    items = [item for record in kept(recorded_run.parent) for item in record.history.item]
    accuracy = [json.loads(item.value_json) for item in items if [*item.nested_key] == ["train/stage/accuracy"]]
    assert accuracy == [line["stage/accuracy"] for line in read_json_lines(recorded_run / "metrics.jsonl")]


def test_wandb_keeps_the_games_with_their_images(recorded_run: Path) -> None:
    """A table of every iteration, its first games, and both images of each as files that a later sync finds."""
    tables = [record.artifact for record in kept(recorded_run.parent) if record.artifact.type == "run_table"]
    assert len(tables) == OPTIONS["iterations"]
    pairs = {pair.id: pair for pair in drawn_pairs(range(6))}
    for step, table in enumerate(tables):
        files = {one.path: Path(one.local_path) for one in table.manifest.contents}
        read = json.loads(files["games.table.json"].read_text())
        assert read["columns"] == COLUMNS.split(", ")
        played = read_json_lines(recorded_run / "games" / f"step-{step:06d}.jsonl")[: OPTIONS["wandb_games"]]
        assert [row[:3] for row in read["data"]] == [[step + 1, record["stage"], record["pair"]] for record in played]
        for row, record in zip(read["data"], played, strict=True):
            assert [line.partition(": ")[2] for line in row[6].split("\n")] == [one["clue"] for one in record["clues"]]
            seen = seen_images(record, pairs)
            for cell, image in zip(row[3:5], seen, strict=True):
                with Image.open(files[cell["path"]]) as sent:
                    assert sent.convert("RGB").tobytes() == image.tobytes()


def test_tensorboard_has_the_numbers(recorded_run: Path) -> None:
    (file,) = recorded_run.rglob("events.out.tfevents.*")
    assert b"train/stage/accuracy" in file.read_bytes()


@pytest.mark.parametrize(
    ("tracker", "reason"),
    [("wandbb", "report_to=wandbb is not known; trackers are azure_ml"), ("mlflow", "its package is not installed")],
)
def test_a_tracker_that_cannot_be_used_is_refused_before_anything_is_loaded(
    tracker: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=f"error: .*{reason}"):
        main(flags(output_dir=tmp_path / "run", report_to=tracker))
    assert not (tmp_path / "run").exists()
