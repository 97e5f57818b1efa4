"""Check of VLMEvalKit's result of a benchmark: a score, or why there is none. It ends with status 0 either way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision_zero.evaluate.benchmarks.scores import BenchmarkOutcome, NoScoreError, check_questions
from vision_zero.evaluate.benchmarks.suite import Benchmark

STATUS = "status.json"
JUDGE_GAVE_UP = "OPENAI API is not working properly, will use exact matching"
TOLERANCE = 1e-4


def read_status(folder: Path) -> dict[str, Any]:
    """Entries of status.json by data set. Raises NoScoreError for a file that is not there or damaged."""
    file = folder / STATUS
    try:
        datasets = json.loads(file.read_text("utf-8"))["datasets"]
    except OSError as error:
        raise NoScoreError(f"VLMEvalKit wrote no {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise NoScoreError(f"{file} is not a status of VLMEvalKit: {error!r}") from error
    if not isinstance(datasets, dict):
        raise NoScoreError(f"{file} is not a status of VLMEvalKit: its data sets are no object")
    return datasets


def benchmark_outcome(benchmark: Benchmark, status: Mapping[str, Any], read: Mapping[str, Any]) -> BenchmarkOutcome:
    """The outcome from `status`, the data sets of status.json, and `read`, which reader.py found by benchmark.

    Raises NoScoreError unless every sample was answered, judged where it must be, and scored.
    """
    name = benchmark.kit_name
    entry, found = status.get(name), read.get(name)
    if entry is None or found is None:
        raise NoScoreError("VLMEvalKit did not get to it")
    failed, total = found.get("failed") or 0, found.get("total") or 0
    if failed:
        raise NoScoreError(f"{failed} of {total} samples failed: no answer came from the model")
    if error := entry.get("error_message") or found.get("error"):
        raise NoScoreError(f"VLMEvalKit failed: {' '.join(str(error).split())[:500]}")
    if reason := entry.get("skip_reason") or found.get("skip_reason"):
        raise NoScoreError(f"VLMEvalKit skipped it: {reason}")
    if entry.get("status") != "done":
        raise NoScoreError(f"VLMEvalKit stopped while it was at '{entry.get('status')}'")
    if not total:
        raise NoScoreError("VLMEvalKit left no predictions")
    if benchmark.needs_judge and found.get("judge_failed"):
        raise NoScoreError(f"{found['judge_failed']} of {total} samples were not judged: the judge failed")
    questions = found.get("questions") or {}
    try:
        check_questions(questions, name)
    except ValueError as error:
        raise NoScoreError(f"VLMEvalKit left no score per question: {error}") from error
    expected = total // 4 if benchmark.scoring == "crpe" else total
    if len(questions) != expected:
        raise NoScoreError(f"{len(questions)} of {expected} samples have a score")
    metrics = entry.get("metrics") or {}
    return BenchmarkOutcome(questions, metrics, _check_headline(benchmark, questions, metrics))


def _check_headline(
    benchmark: Benchmark, questions: Mapping[str, float], metrics: Mapping[str, Any]
) -> tuple[str, ...]:
    """Notes on a mean that was checked against VLMEvalKit's own. Raises NoScoreError if the two differ."""
    if not benchmark.headline:
        return (benchmark.note or "VLMEvalKit gives no mean over all questions; this one was read per question",)
    if benchmark.headline not in metrics:
        return (f"VLMEvalKit's metrics have no '{benchmark.headline}' to check the mean with",)
    mean, said = sum(questions.values()) / len(questions), metrics[benchmark.headline] / benchmark.headline_scale
    if abs(mean - said) > TOLERANCE:
        raise NoScoreError(
            f"the questions' mean is {mean:.4f}, but VLMEvalKit says {benchmark.headline} = "
            f"{metrics[benchmark.headline]}: its files were not read right"
        )
    return (benchmark.note,) if benchmark.note else ()
