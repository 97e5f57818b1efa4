"""Scores of one model by lmms-eval, unmodified, in its own environment: its OpenAI client asks a served model."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vision_zero.evaluate.benchmarks import processes
from vision_zero.evaluate.benchmarks.options import BenchmarkConfig
from vision_zero.evaluate.benchmarks.processes import Server
from vision_zero.evaluate.benchmarks.scores import BenchmarkOutcome, Entrant, NoScoreError, Outcomes, check_questions
from vision_zero.evaluate.benchmarks.suite import Benchmark

PACKAGES, SETUP = ("lmms-eval",), " --with lmms-eval"
FAILED = "[LMMS_EVAL_"  # how the text begins that stands for the answer to a request that failed or was not made


def command(python: Path, name: str, url: str, task: str, output: Path, config: BenchmarkConfig) -> list[str]:
    client = f"model={name},base_url={url}/v1,api_key=none,num_concurrent={config.nproc},max_retries=3,timeout=3600"
    words = [str(python), "-m", "lmms_eval", "--model", "openai", "--tasks", task, "--model_args", client]
    words += ["--batch_size", "1", "--log_samples", "--output_path", str(output), "--seed", "0"]
    if config.include_path:
        words += ["--include_path", str(Path(config.include_path).absolute())]
    if config.limit:
        words += ["--limit", str(config.limit)]
    return words


def score(
    entrant: Entrant, benchmarks: Sequence[Benchmark], config: BenchmarkConfig, python: Path, server: Server
) -> Outcomes:
    """Outcomes by task."""
    outcomes: Outcomes = {}
    folder = entrant.logs
    for task in (one.kit_name for one in benchmarks):
        log, output = folder / f"lmms-eval-{task}.log", folder / "lmms-eval" / task
        log.unlink(missing_ok=True)
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        words = command(python, entrant.name, server.url, task, output, config)
        try:
            with processes.started(words, log, processes.tool_variables(), folder) as process:
                processes.wait_for(process, log, server)
            outcomes[task] = read(output, task, config.metric)
        except processes.ProcessFailedError as error:
            outcomes[task] = NoScoreError(f"lmms-eval {error}")
        except NoScoreError as error:
            outcomes[task] = NoScoreError(f"{error} (log: {log})")
    return outcomes


def read(output: Path, task: str, metric: str | None) -> BenchmarkOutcome:
    """The outcome of a task from its samples and results below `output`.

    Raises NoScoreError if they are not there, a sample failed, or no metric has a value in 0..1 for every sample.
    """
    results, samples = _newest(output, "*results.json"), _newest(output, f"*samples_{task}.jsonl")
    try:
        metrics = json.loads(results.read_text("utf-8"))["results"][task]
        rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    except (OSError, ValueError, KeyError) as error:
        raise NoScoreError(f"lmms-eval's files cannot be read: {error!r}") from error
    if not rows:
        raise NoScoreError("lmms-eval left no samples")
    failed = sum(FAILED in json.dumps([row.get("filtered_resps"), row.get("resps")]) for row in rows)
    if failed:
        raise NoScoreError(f"{failed} of {len(rows)} samples failed: no answer came from the model")
    names = [key.split(",")[0] for key in metrics if "," in key and "_stderr" not in key]
    chosen = _metric(names, rows, metric)
    questions = {str(row["doc_id"]): float(row[chosen]) for row in rows}
    check_questions(questions, task)
    mean = sum(questions.values()) / len(questions)
    said = next(value for key, value in metrics.items() if key.split(",")[0] == chosen)
    notes = [f"metric {chosen}"]
    if isinstance(said, (int, float)) and not math.isclose(mean, said, abs_tol=1e-4):
        notes.append(f"lmms-eval aggregates it otherwise, to {said}")
    return BenchmarkOutcome(questions, metrics, tuple(notes))


def _newest(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise NoScoreError(f"lmms-eval left no {pattern} in {folder}")
    return found[-1]


def _metric(names: Sequence[str], rows: Sequence[Mapping[str, Any]], asked: str | None) -> str:
    """The metric asked for, or the first that every sample has a value in 0..1 of."""

    def per_question(name: str) -> bool:
        return all(isinstance(row.get(name), (bool, int, float)) and 0 <= row[name] <= 1 for row in rows)

    usable = [name for name in ([asked] if asked else names) if per_question(name)]
    if usable:
        return usable[0]
    if asked:
        raise NoScoreError(f"--metric {asked}: not every sample has a value in 0..1 of it; it has {', '.join(names)}")
    raise NoScoreError(f"no metric with a value in 0..1 per sample, so nothing can be paired: {', '.join(names)}")
