"""The real VLMEvalKit and the real lmms-eval, unmodified, score tiny models on a small benchmark of drawn scenes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from run_scripts import vlmevalkit_reader as reader
from tests.evaluate.benchmarks.small_benchmark import (
    LETTERS,
    answer_of,
    kept_requests,
    questions,
    teach,
    untrained,
    write_lmms_task,
    write_tsv,
)
from tests.process_helpers import ROOT, TINY_VLM, without_weight
from vision_zero.evaluate.benchmarks.options import PYTHONS, SYSTEM_PROMPT, BenchmarkConfig
from vision_zero.evaluate.benchmarks.processes import READY
from vision_zero.evaluate.benchmarks.suite import BENCHMARKS, BY_NAME
from vision_zero.evaluate.benchmarks.vlmevalkit.run import benchmark_outcome, direct_entry

NAME, N = "drawn_shapes", 40
ASKED = questions(N)
MAX_PIXELS = 112 * 112


def tool_python(tool: str) -> Path:
    python = ROOT / PYTHONS[tool]
    if not python.is_file():
        more = "" if tool == "vlmevalkit" else f" --with {tool}"
        pytest.skip(f"no environment of {tool}: make it with bash run_scripts/setup_vlmevalkit.sh{more}")
    return python


@dataclass(frozen=True)
class Finished:
    status: int
    output: str
    result: dict[str, Any]

    def mean(self, model: Path) -> float:
        return self.result["benchmarks"][NAME]["scores"][str(model)]["mean"]


def command(tool: str, out: Path, data: Path, base: Path, *models: Path, words: tuple[str, ...] = ()) -> list[str]:
    where = ["--data_dir", data] if tool == "vlmevalkit" else ["--include_path", data]
    line = [sys.executable, "-m", "vision_zero.evaluate", "vlmevalkit", *(models or [base]), "--base", base]
    line += ["--with", tool, "--benchmarks", NAME, *where, "--out", out, "--python", tool_python(tool), "--use_cpu"]
    line += ["--min_pixels", 56 * 56, "--max_pixels", MAX_PIXELS, "--max_new_tokens", 16, *words]
    return list(map(str, line))


def evaluate(tool: str, out: Path, data: Path, base: Path, *models: Path, words: tuple[str, ...] = ()) -> Finished:
    done = subprocess.run(
        command(tool, out, data, base, *models, words=words), cwd=ROOT, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    print(output)
    file = out / "result.json"
    return Finished(done.returncode, output, json.loads(file.read_text()) if file.is_file() else {})


@dataclass(frozen=True)
class Pupils:
    """`random`: weights as drawn; `guesser`: has learnt that the completion is a letter, from shuffled answers, and no
    more; `right`: over-fitted. `requests`: what the tool asked."""

    random: Path
    guesser: Path
    right: Path
    data: Path
    first: Finished


def make_pupils(tool: str, folder: Path) -> Pupils:
    """The tool asks the random model first; what it asked is what the others are taught."""
    tool_python(tool)
    data = folder / "data"
    if tool == "vlmevalkit":
        write_tsv(data, NAME, ASKED)
    else:
        write_lmms_task(data, NAME, ASKED)
    start = untrained(folder / "random")
    first = evaluate(tool, folder / "first", data, start, start, words=("--keep_requests",))
    assert first.status == 0
    requests = kept_requests(next((folder / "first").rglob("requests.jsonl")))
    answers = [answer_of(request, ASKED) for request in requests]
    assert sorted(answers) == sorted(LETTERS * (N // 4))
    shuffled = list(answers)
    random.Random("shuffled").shuffle(shuffled)
    how = {"max_pixels": MAX_PIXELS, "system_prompt": SYSTEM_PROMPT}
    guesser = teach(start, folder / "guesser", requests, shuffled, max_steps=50, **how)
    right = teach(start, folder / "right", requests, answers, **how)
    return Pupils(start, guesser, right, data, first)


@pytest.fixture(scope="module", params=["vlmevalkit", "lmms-eval"])
def tool(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pupils(tool: str, tmp_path_factory: pytest.TempPathFactory) -> Pupils:
    return make_pupils(tool, tmp_path_factory.mktemp(tool))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_over_fitted_gets_all_right_and_one_that_guesses_a_quarter(tool: str, pupils: Pupils, tmp_path: Path) -> None:
    done = evaluate(tool, tmp_path, pupils.data, pupils.guesser, pupils.right)
    assert done.status == 0
    assert done.mean(pupils.right) == 1.0
    assert 0.1 <= done.mean(pupils.guesser) <= 0.4
    assert pupils.first.mean(pupils.random) <= 0.4
    gain = done.result["benchmarks"][NAME]["differences"][str(pupils.right)]
    assert gain["questions"] == N
    assert gain["difference"]["value"] == pytest.approx(1 - done.mean(pupils.guesser))
    assert gain["difference"]["low"] > 0.3
    assert gain["worse"] == 0
    assert f"| {NAME} | `{pupils.right}` | 40 |" in done.output
    assert done.result["settings"][str(pupils.right)]["tool_versions"]["transformers"]

    again = evaluate(tool, tmp_path, pupils.data, pupils.guesser, pupils.right)
    assert again.status == 0
    assert again.output.count(f"to score nothing; complete already: {NAME}") == 2
    assert again.result == done.result


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_broken_model_is_reported_as_failed_and_not_as_zero(tool: str, pupils: Pupils, tmp_path: Path) -> None:
    lacking = without_weight(pupils.right, tmp_path / "lacking", "layers.2.mlp")
    mute = tmp_path / "mute"  # loads, but no request can be answered
    shutil.copytree(pupils.right, mute)
    (mute / "chat_template.json").unlink()
    config = json.loads((mute / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (mute / "tokenizer_config.json").write_text(json.dumps(config))
    done = evaluate(tool, tmp_path / "out", pupils.data, pupils.right, lacking, mute)
    assert done.status == 1
    assert "2 of 3 benchmarks have no score" in done.output
    reasons = {one["model"]: one["reason"] for one in done.result["failed"]}
    assert "its files lack the weights" in reasons[str(lacking)]
    assert "40 of 40 samples failed" in reasons[str(mute)]
    scores = done.result["benchmarks"][NAME]["scores"]
    assert list(scores) == [str(pupils.right)]
    assert done.result["benchmarks"][NAME]["differences"] == {}
    assert done.output.count("| not scored |") == 2


@pytest.mark.slow
def test_an_interrupted_run_ends_all_it_started_and_goes_on(tmp_path: Path) -> None:
    tool_python("vlmevalkit")
    write_tsv(tmp_path / "data", NAME, ASKED)
    start, out = untrained(tmp_path / "random"), tmp_path / "out"
    few = ("--nproc", "4", "--max_batch", "4")
    line = command("vlmevalkit", out, tmp_path / "data", start, words=few)
    with Path(os.devnull).open("w") as nowhere:
        process = subprocess.Popen(line, cwd=ROOT, stderr=nowhere)
    try:
        end = time.monotonic() + 300
        while answered(out) < 20 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(start).encode() in read_quietly(path)]
    assert not list(out.rglob(f"scores/*/{NAME}.json"))
    again = evaluate("vlmevalkit", out, tmp_path / "data", start, words=few)
    assert again.status == 0
    assert again.result["benchmarks"][NAME]["scores"][str(start)]["counts"]["answered"] < N  # some were kept


def answered(out: Path) -> int:
    """How many questions the server of a run has answered; 0 before it is up."""
    for log in out.rglob("server.log"):
        if urls := [line.removeprefix(READY) for line in log.read_text().splitlines() if line.startswith(READY)]:
            return httpx.get(f"{urls[0]}/health", timeout=30, trust_env=False).json()["answered"]
    return 0


def read_quietly(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


KNOWN = """
import inspect, json, sys
import vlmeval.api, vlmeval.dataset as sets, vlmeval.vlm
asked, entry = json.loads(sys.argv[1]), json.loads(sys.argv[2])
unknown = [name for name, kind in asked if name not in getattr(sets, kind).supported_datasets()]
takes = inspect.signature(getattr(vlmeval.vlm, entry.pop("class")).__init__).parameters
print("\\n" + json.dumps([*unknown, *(name for name in entry if name not in takes)]))
"""


@pytest.mark.slow
def test_benchmarks_and_options_are_named_as_vlmevalkit_names_them() -> None:
    asked = json.dumps([(one.kit_name, one.kit_class) for one in BENCHMARKS])
    entry = json.dumps(direct_entry(str(TINY_VLM), BenchmarkConfig()))
    python = tool_python("vlmevalkit")
    done = subprocess.run(
        [python, "-W", "ignore", "-c", KNOWN, asked, entry], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


WANTED = {
    "ChartQA_TEST": [1, 1, 0, 0],  # within 5%
    "TextVQA_VAL": [1, (2 * 1 / 3 + 8 * 2 / 3) / 10, 0],  # of ten annotators: min(1, others who agree / 3), averaged
    "DocVQA_VAL": [1, 0.8, 0],  # 1 - edit distance / length, nothing below 0.5
    "InfoVQA_VAL": [1, 0],
    "OCRBench": [1, 0, 1, 0, 1],
    "CRPE_RELATION": [1, 0],
    "HallusionBench": [1, 0, 1, 0],
    "MathVista_MINI": [1, 0, 1, 0],
    "MathVision": [1, 0, 1, 0],
    "DynaMath": [1, 1, 1, 0],
}


@pytest.mark.slow
def test_questions_are_read_as_vlmevalkits_own_code_scores_them(tmp_path: Path) -> None:
    python, source = tool_python("vlmevalkit"), Path(reader.__file__).parent
    line = [python, "-W", "ignore", Path(__file__).with_name("vlmevalkit_files.py"), tmp_path, source]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == WANTED.keys()
    for name, values in WANTED.items():
        assert list(found[name]["questions"].values()) == pytest.approx(values), name
        total = len(values) * (4 if name == "CRPE_RELATION" else 1)
        status = {name: {"status": "done", "metrics": found[name]["metrics"]}}
        read = {name: {"failed": 0, "total": total, "judge_failed": 0, "questions": found[name]["questions"]}}
        notes = benchmark_outcome(BY_NAME[name], status, read).notes  # raises if the headline is another
        assert not any("have no '" in note for note in notes), (name, found[name]["metrics"])
