"""A program whose output nobody reads on, as `| head` does, ends quietly; a run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process_helpers import DRAWN, TINY_VLM, flags, run_program

CLOSED = """
import os, runpy, sys
reader, writer = os.pipe()
os.close(reader)
for number in map(int, sys.argv[1].split(",")):
    os.dup2(writer, number)
sys.argv = sys.argv[2:]
sys.modules.pop(sys.argv[0], None)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "words",
    [
        ("report", "{run}", "--summary"),
        ("report", "--help"),
        ("inspect_data", str(DRAWN), "--all"),
        ("config",),
        ("config", "--help"),
        ("export", "--help"),
        ("evaluate", "--help"),
        ("evaluate", "win-rate", "--help"),
        ("make_data", "--help"),
        ("make_data", "download", "--help"),
    ],
    ids=" ".join,
)
def test_nothing_is_said_of_a_closed_pipe(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("iterations: 12\n")
    words = tuple(word.format(run=tmp_path) for word in words)
    done = run_program(["-c", CLOSED, "1", f"vision_zero.{words[0]}", *words[1:]], tmp_path / "log")
    assert done.status == 141  # 128 + SIGPIPE, as a shell has it
    assert done.output == ""


def test_what_fits_into_the_pipe_is_written(tmp_path: Path) -> None:
    done = run_program(["-m", "vision_zero.config", "--help"], tmp_path / "log")
    assert done.status == 0
    assert done.output.startswith("usage: python -m vision_zero.config")
    assert run_program(["-m", "vision_zero.config", "more"], tmp_path / "other").status == 2


def test_a_run_does_not_end_with_its_terminal(tmp_path: Path) -> None:
    words = flags(output_dir=tmp_path / "run", iterations=1, model_name_or_path=TINY_VLM)
    done = run_program(["-c", CLOSED, "1,2", "vision_zero.train", *words], tmp_path / "log")
    assert (done.status, done.output) == (0, "")
    assert (tmp_path / "run" / "checkpoint-1" / "COMPLETE").is_file()


BUFFERED = """
import io, os, sys
sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
from vision_zero.rollout.stopping import end_with_reader
end_with_reader()
print("a line")
os._exit(0)
"""


def test_a_line_is_in_the_log_at_once(tmp_path: Path) -> None:
    assert run_program(["-c", BUFFERED], tmp_path / "log").output == "a line\n"
