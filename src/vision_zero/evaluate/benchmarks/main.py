"""`python -m vision_zero.evaluate vlmevalkit`: a base and trained models on benchmarks, and their differences.

OUT/result.json                 every score, difference, failure, setting and version
OUT/scores/MODEL-XXXX/          scores of a model (XXXX: hash of its files and settings), a file per complete benchmark
OUT/logs/MODEL-XXXX/            configurations, logs and what the tool wrote
"""

import dataclasses
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from vision_zero.evaluate.benchmarks import lmms_eval, processes
from vision_zero.evaluate.benchmarks.options import JUDGE_KEY, BenchmarkConfig, BenchmarkOptions, parse, pixel_bounds
from vision_zero.evaluate.benchmarks.scores import Entrant, NoScoreError, Outcomes, Score, fingerprint
from vision_zero.evaluate.benchmarks.suite import PAPER_MODELS, Benchmark, judge_summary
from vision_zero.evaluate.benchmarks.table import fill_table, results_table
from vision_zero.evaluate.benchmarks.vlmevalkit import run as vlmevalkit
from vision_zero.evaluate.bootstrap import Comparison, compare_questions
from vision_zero.run_folder import check_own, write_json

TOOLS: Mapping[str, Any] = {"vlmevalkit": vlmevalkit, "lmms-eval": lmms_eval}
"""Modules with `score`, `PACKAGES` and `SETUP`: what must be in a tool's environment, and options of its script."""
RESULT = "result.json"
SETTINGS = ("system_prompt", "post_process", "max_new_tokens", "limit", "dtype")  # options that answers depend on
JUDGE_TIMEOUT = 120.0  # seconds: a judge that has just been started may still be warming up


@dataclass
class Run:
    """One run of the command. `failures`, filled as it goes on: (model, benchmark) -> why there is no score."""

    options: BenchmarkOptions
    benchmarks: list[Benchmark]
    base: Entrant
    models: list[Entrant]
    environment: processes.ToolEnvironment
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def judge(self, benchmark: Benchmark) -> dict[str, Any] | None:
        if not benchmark.needs_judge:
            return None
        return {"model": self.options.config.judge_model, "url": self.options.config.judge_url or "OpenAI"}

    def comparison(self, entrant: Entrant, benchmark: Benchmark) -> Comparison | None:
        ours, theirs = (one.score(benchmark, self.judge(benchmark)) for one in (entrant, self.base))
        if ours is None or theirs is None:
            return None
        try:
            return compare_questions(theirs.questions, ours.questions)
        except ValueError as error:
            self.failures[entrant.model, benchmark.kit_name] = str(error)
            return None

    def result(self) -> dict[str, Any]:
        entrants = (self.base, *self.models)
        return {
            "tool": self.options.config.tool,
            "base": self.base.model,
            "models": [one.model for one in self.models],
            "settings": {one.model: {"name": one.name, **one.settings} for one in entrants},
            "versions": {"python": platform.python_version(), **self.environment.versions},
            "config": dataclasses.asdict(self.options.config),
            "benchmarks": {one.kit_name: self._benchmark_result(one, entrants) for one in self.benchmarks},
            "failed": [
                {"model": model, "benchmark": benchmark, "reason": reason}
                for (model, benchmark), reason in sorted(self.failures.items())
            ],
        }

    def _benchmark_result(self, benchmark: Benchmark, entrants: Sequence[Entrant]) -> dict[str, Any]:
        judge, paper = self.judge(benchmark), benchmark.paper
        scores = {one.model: one.score(benchmark, judge) for one in entrants}
        compared = {one.model: self.comparison(one, benchmark) for one in self.models}
        return {
            "judge": judge,
            "paper": dict(zip(PAPER_MODELS, paper, strict=True)) if paper else None,
            "scores": {
                model: {
                    "mean": score.mean,
                    "questions": len(score.questions),
                    "metrics": score.metrics,
                    "notes": score.settings.get("notes", []),
                    "counts": score.counts,
                    "seconds": score.seconds,
                }
                for model, score in scores.items()
                if score is not None
            },
            "differences": {model: dataclasses.asdict(one) for model, one in compared.items() if one is not None},
        }


def resolve(model: str, options: BenchmarkOptions, environment: processes.ToolEnvironment) -> Entrant:
    """A model with all that its answers depend on, and the places of its scores and logs."""
    import torch  # not before the options are parsed: it takes seconds

    config = options.config
    how = "served" if config.tool == "lmms-eval" else vlmevalkit.answer_mode(model, config, environment)
    low, high = pixel_bounds(model, config)
    device = "cuda" if torch.cuda.is_available() and not config.use_cpu else "cpu"
    ours = {name: metadata.version(name) for name in ("torch", "transformers")} if how == "served" else {}
    same = {one: getattr(config, one) for one in SETTINGS}
    settings = {"tool": config.tool, **same, "decoding": "greedy", "how": how, "min_pixels": low}
    settings |= {"max_pixels": high, "device": device}
    settings |= {"tool_versions": dict(environment.versions), "server_versions": ours}
    parts = [part for part in Path(model).parts if part not in ("/", ".", "..")]
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(parts[-3:])).strip("-.") or "model"
    name = f"{slug}-{fingerprint(model, settings)[:8]}"
    return Entrant(model, name, settings, options.out / "scores" / name, options.out / "logs" / name)


def main(arguments: Sequence[str]) -> None:
    """Run the command; the status is 1 when a benchmark has no score. Raises ValueError or OSError before it starts."""
    options = parse(arguments)
    check_own(Path(options.out) / RESULT, "--out", '{\n "tool": ', at_start=True)
    if isinstance(options, BenchmarkConfig):
        fill_table(Path(str(options.fill)), Path(options.out) / RESULT)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended as at Ctrl-C
    try:
        run = prepare(options)
        if options.config.dry_run:
            return
        for entrant in (run.base, *run.models):
            score(run, entrant)
            write_json(options.out / RESULT, run.result())
    except KeyboardInterrupt:
        print("interrupted; what is complete is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)
    report(run)


def prepare(options: BenchmarkOptions) -> Run:
    """Check all that can be checked before anything is scored, and print what will run."""
    benchmarks, config = options.benchmarks(), options.config
    tool = TOOLS[config.tool]
    environment = processes.inspect_environment(options.python, tool.PACKAGES, tool.SETUP)
    if tool is vlmevalkit:
        print(judge_summary(benchmarks))
    if config.judge_model and config.judge_url and any(one.needs_judge for one in benchmarks):
        check_judge(config.judge_model, config.judge_url)
    base = resolve(options.base, options, environment)
    models = [resolve(model, options, environment) for model in options.models]
    run = Run(options, benchmarks, base, models, environment)
    for entrant in (base, *models):
        done = [one.kit_name for one in benchmarks if entrant.score(one, run.judge(one))]
        rest = [one.kit_name for one in benchmarks if one.kit_name not in done]
        role = "base " if entrant is base else "model"
        already = f"; complete already: {', '.join(done)}" if done else ""
        print(f"{role} {entrant.model} ({entrant.settings['how']}): to score {', '.join(rest) or 'nothing'}{already}")
    return run


def score(run: Run, entrant: Entrant) -> None:
    """Score what is not complete yet and write it; what cannot be scored is a failure of the run."""
    todo = [one for one in run.benchmarks if entrant.score(one, run.judge(one)) is None]
    if not todo:
        return
    config = run.options.config
    entrant.logs.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    outcomes: Outcomes
    counts: dict[str, int] = {}
    # lmms-eval's client sends no system prompt, so the server puts it there.
    prompt = config.system_prompt or None if config.tool == "lmms-eval" else None
    served = processes.served(entrant.model, entrant.name, config, entrant.logs, prompt)
    try:
        with served if entrant.settings["how"] == "served" else nullcontext() as server:
            outcomes = TOOLS[config.tool].score(entrant, todo, config, run.environment.python, server)
            counts = {} if server is None else server.counts()
    except processes.ProcessFailedError as error:
        outcomes = {one.kit_name: NoScoreError(str(error)) for one in todo}
    seconds = round(time.monotonic() - began, 1)
    for benchmark in todo:
        name = benchmark.kit_name
        found = outcomes[name]
        if isinstance(found, NoScoreError):
            run.failures[entrant.model, name] = str(found)
            print(f"NOT SCORED  {entrant.model}, {name}: {found}", file=sys.stderr)
            continue
        settings = {**entrant.settings, "judge": run.judge(benchmark), "notes": list(found.notes)}
        scored = Score(name, entrant.model, found.questions, found.metrics, settings, counts, seconds)
        write_json(entrant.scores / f"{name}.json", dataclasses.asdict(scored))
        for note in found.notes:
            print(f"note: {entrant.model}, {name}: {note}")


def report(run: Run) -> None:
    """Write the table, result.json and --fill; exit with status 1 if anything has no score."""
    result, config, file = run.result(), run.options.config, run.options.out / RESULT
    write_json(file, result)
    print(results_table(result))
    print(f"all of it: {file}")
    if config.fill:
        fill_table(Path(config.fill), file)
    if run.failures:
        n_scores = len(run.benchmarks) * (1 + len(run.models))
        sys.exit(f"error: {len(run.failures)} of {n_scores} benchmarks have no score")


def check_judge(model: str, url: str) -> None:
    """Ask a judge at `url` (with its /v1) a question. Raises ValueError, with what it says, if it does not answer."""
    import httpx

    messages = [{"role": "user", "content": "Answer with one word: is 2 more than 1?"}]
    question = {"model": model, "messages": messages, "max_tokens": 16, "temperature": 0}
    where = f"--judge_url {url}, --judge_model {model}"
    try:
        headers = {"Authorization": f"Bearer {os.environ.get(JUDGE_KEY) or 'none'}"}
        address = f"{url.rstrip('/')}/chat/completions"
        answer = httpx.post(address, json=question, headers=headers, timeout=JUDGE_TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"{where}: no answer: {error or type(error).__name__}") from error
    if not answer.is_success:
        raise ValueError(f"{where}: says {answer.status_code}: {answer.text[:300]}")
    try:
        said = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{where}: its answer is not in OpenAI's format: {answer.text[:300]}") from error
    if not said:
        raise ValueError(f"{where}: its answer is empty")
