"""One model scored by VLMEvalKit, unmodified, in its own environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from vision_zero.evaluate.benchmarks.options import BenchmarkConfig
from vision_zero.evaluate.benchmarks.processes import ProcessFailedError, started, wait_for
from vision_zero.evaluate.benchmarks.server.process import Served, Serving, served
from vision_zero.evaluate.benchmarks.suite import Benchmark
from vision_zero.evaluate.benchmarks.vlmevalkit import reader
from vision_zero.evaluate.benchmarks.vlmevalkit.config import (
    EXACT,
    ToolEnvironment,
    choose,
    command,
    configuration,
    direct_entry,
    kit_environment,
    pixel_bounds,
    served_entry,
)
from vision_zero.evaluate.benchmarks.vlmevalkit.outcomes import (
    JUDGE_GAVE_UP,
    NoScoreError,
    Outcome,
    outcome,
    read_status,
)
from vision_zero.run_folder import write_json

PACKAGES = ("ms-vlmeval",)


def serving_of(model: str, name: str, config: BenchmarkConfig, folder: Path) -> Serving:
    low, high = pixel_bounds(model, config)
    return Serving(
        model,
        name,
        min_pixels=low,
        max_pixels=high,
        max_tokens=config.max_new_tokens,
        max_batch=config.max_batch,
        dtype=config.dtype,
        use_cpu=config.use_cpu,
        post_process=config.post_process,
        keep_requests=folder / "requests.jsonl" if config.keep_requests else None,
        timeout=config.server_timeout,
    )


@contextmanager
def ready(model: str, name: str, config: BenchmarkConfig, environment: ToolEnvironment, folder: Path) -> Iterator[Any]:
    """The model's entry of the configuration, and its server if it needs one."""
    if choose(model, config, environment) == "direct":
        yield direct_entry(model, config), None
        return
    with served(serving_of(model, name, config, folder), folder / "server.log") as server:
        yield served_entry(name, server.url, config), server


class Progress:
    """A bar of answered questions, where a server counts them."""

    def __init__(self, name: str, server: Served | None) -> None:
        self.server = server
        self.bar = tqdm(desc=name, unit="question", disable=None if server else True, leave=False)

    def tick(self) -> None:
        """Raises ProcessFailedError, which names the log, when the server has ended."""
        if self.server is None:
            return
        self.server.check()
        with suppress(httpx.HTTPError):  # a busy server may be late; the next tick asks again
            self.bar.update(self.server.counts()["answered"] - self.bar.n)

    def counts(self) -> dict[str, int]:
        self.bar.close()
        with suppress(httpx.HTTPError):
            return self.server.counts() if self.server is not None else {}
        return {}


def score(
    model: str,
    name: str,
    benchmarks: Sequence[Benchmark],
    config: BenchmarkConfig,
    environment: ToolEnvironment,
    folder: Path,
) -> tuple[dict[str, Outcome | NoScoreError], dict[str, int]]:
    """An outcome for each benchmark, and what the server counted. `name` is unique to the model and its settings.

    What an earlier, interrupted run answered is kept by VLMEvalKit; what it scored from failed answers is removed.
    Raises ProcessFailedError, which names the log, when nothing can be scored at all.
    """
    work = folder / "work"
    outcomes: dict[str, Outcome | NoScoreError] = {}
    forget_judgements(work / name, name, benchmarks)
    with ready(model, name, config, environment, folder) as (entry, server):
        progress = Progress(name, server)
        for judge, some in by_judge(benchmarks, config):
            file = folder / f"config-{'judged' if judge else 'unjudged'}.json"
            write_json(file, configuration(name, entry, some))
            log = folder / f"vlmevalkit-{'judged' if judge else 'unjudged'}.log"
            log.unlink(missing_ok=True)
            words = command(environment.python, file, work, config, judge)
            variables = kit_environment(config, judged=judge is not None)
            (work / name).mkdir(parents=True, exist_ok=True)
            try:
                with started(words, log, variables, folder) as process:
                    wait_for(process, log, progress.tick)
            except ProcessFailedError as error:
                outcomes |= {one.kit_name: NoScoreError(f"VLMEvalKit {error}") for one in some}
                continue
            finally:
                remove_secret(variables.get("OPENAI_API_KEY"), [log, *work.rglob("*.log")])
            outcomes |= read(environment.python, work / name, some, judge, log, variables)
        counts = progress.counts()
    return outcomes, counts


def by_judge(benchmarks: Sequence[Benchmark], config: BenchmarkConfig) -> list[tuple[str | None, list[Benchmark]]]:
    """One run of VLMEvalKit knows one judge, so those without one are a run of their own."""
    groups = [
        (None, [one for one in benchmarks if not one.needs_judge]),
        (config.judge_model, [one for one in benchmarks if one.needs_judge]),
    ]
    return [(judge, some) for judge, some in groups if some]


def forget_judgements(results: Path, name: str, benchmarks: Sequence[Benchmark]) -> None:
    """VLMEvalKit would keep the score of a failed answer beside the answer that replaced it."""
    for one in benchmarks:
        for path in results.glob(f"{name}_{one.kit_name}_*"):
            if not path.name.endswith(("_checkpoint.pkl", "_PREV.pkl")):
                path.unlink()
    (results / "status.json").unlink(missing_ok=True)


def read(
    python: Path,
    results: Path,
    benchmarks: Sequence[Benchmark],
    judge: str | None,
    log: Path,
    variables: Mapping[str, str],
) -> dict[str, Outcome | NoScoreError]:
    asked = json.dumps([{"name": one.kit_name, "scoring": one.scoring} for one in benchmarks])
    command = [str(python), reader.__file__, str(results), asked, judge or EXACT]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(variables), check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return {one.kit_name: NoScoreError(f"its files cannot be read: {reason} (log: {log})") for one in benchmarks}
    found = json.loads(done.stdout)
    gave_up = judge is not None and JUDGE_GAVE_UP in log.read_text("utf-8", errors="replace")
    outcomes: dict[str, Outcome | NoScoreError] = {}
    for one in benchmarks:
        try:
            if gave_up:
                raise NoScoreError("the judge did not answer, and VLMEvalKit went on without")
            outcomes[one.kit_name] = outcome(one, read_status(results), found)
        except NoScoreError as error:
            outcomes[one.kit_name] = NoScoreError(f"{error} (log: {log})")
    return outcomes


def remove_secret(secret: str | None, files: Sequence[Path]) -> None:
    """VLMEvalKit writes the judge's key into its logs."""
    if not secret or secret == "none":
        return
    for file in files:
        text = file.read_bytes()
        if secret.encode() in text:
            file.write_bytes(text.replace(secret.encode(), b"(key removed)"))
