"""Outcome of one benchmark, and its score as a file: written once it is complete, and then never computed again."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_zero.evaluate.benchmarks.suite import Benchmark
from vision_zero.models import BASE_FILE


class NoScoreError(ValueError):
    """A benchmark that was not scored, or not wholly; the message says how many samples failed, or why."""


@dataclass(frozen=True)
class BenchmarkOutcome:
    """Result of a benchmark in a tool. `questions`: a score in 0..1 each. `metrics`: the tool's own figures."""

    questions: Mapping[str, float]
    metrics: Mapping[str, Any]
    notes: tuple[str, ...] = ()


Outcomes = dict[str, BenchmarkOutcome | NoScoreError]  # by benchmark


@dataclass(frozen=True)
class Score:
    """Score of one model on one benchmark, complete. `questions` and `metrics`: as in BenchmarkOutcome.

    `settings`: all that it depends on. `counts`: of completions (truncated, empty).
    """

    benchmark: str
    model: str
    questions: Mapping[str, float]
    metrics: Mapping[str, Any]
    settings: Mapping[str, Any]
    counts: Mapping[str, int]
    seconds: float

    @property
    def mean(self) -> float:
        return sum(self.questions.values()) / len(self.questions)


def read_score(file: Path) -> Score | None:
    """The score of a benchmark, None where there is none yet. Raises ValueError for a file that is damaged."""
    if not file.is_file():
        return None
    try:
        score = Score(**json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a score ({error}); remove it to score again") from error
    check_questions(score.questions, str(file))
    return score


@dataclass(frozen=True)
class Entrant:
    """A model that is scored. `name` is unique to its files and the settings that its answers depend on."""

    model: str
    name: str
    settings: Mapping[str, Any]
    scores: Path
    logs: Path

    def score(self, benchmark: Benchmark, judge: Mapping[str, Any] | None) -> Score | None:
        """The score that is there already, None if there is none or another judge gave it."""
        found = read_score(self.scores / f"{benchmark.kit_name}.json")
        return found if found is not None and found.settings.get("judge") == judge else None


def check_questions(questions: Mapping[str, float], where: str) -> None:
    """Check that there are questions and each has a score in 0..1. Raises ValueError."""
    if not questions:
        raise ValueError(f"{where}: there are no questions")
    for name, value in questions.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
            raise ValueError(f"{where}: question {name} has the score {value!r}, which is not in 0..1")


def fingerprint(model: str, settings: Mapping[str, Any]) -> str:
    """Hash of a model's files and the settings, 16 hex digits: whatever changes an answer changes them.

    A Hub name stands for its files. Raises OSError for files that cannot be read.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    folder = Path(model)
    if not folder.is_dir():
        digest.update(model.encode())
        return digest.hexdigest()[:16]
    for path in sorted(folder.iterdir()):
        if path.name in ("trainer_state.json", BASE_FILE):
            continue
        if path.is_file() and path.suffix in (".safetensors", ".json", ".jinja", ".txt", ".bin"):
            digest.update(f"{path.name}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
