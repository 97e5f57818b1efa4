"""Scores of one model by VLMEvalKit, unmodified, in its own environment, and the check of what it left.

It answers by its own class on a GPU, or by its API class and a server. It ends with status 0 whether a benchmark has a
score or not.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vision_zero.config.game import beside
from vision_zero.evaluate.benchmarks import processes
from vision_zero.evaluate.benchmarks.options import JUDGE_KEY, BenchmarkConfig, model_type, pixel_bounds
from vision_zero.evaluate.benchmarks.processes import Server
from vision_zero.evaluate.benchmarks.scores import BenchmarkOutcome, Entrant, NoScoreError, Outcomes, check_questions
from vision_zero.evaluate.benchmarks.suite import Benchmark
from vision_zero.run_folder import write_json

READER = Path(__file__).resolve().parents[5] / "run_scripts" / "vlmevalkit_reader.py"
SERVED: dict[str, Any] = beside(__file__)  # what the entries of all served models have
EXACT = "exact_matching"
"""VLMEvalKit's name for no judge. Without it, it takes OpenAI's and falls back without saying so."""
PACKAGES, SETUP = ("ms-vlmeval",), ""
STATUS = "status.json"
JUDGE_GAVE_UP = "OPENAI API is not working properly, will use exact matching"
TOLERANCE = 1e-4


def score(
    entrant: Entrant, benchmarks: Sequence[Benchmark], config: BenchmarkConfig, python: Path, server: Server | None
) -> Outcomes:
    """Outcomes by benchmark. Without a `server` VLMEvalKit's own class answers.

    VLMEvalKit keeps what an earlier, interrupted run answered; what it scored from failed answers is removed.
    """
    name, folder = entrant.name, entrant.logs
    work = folder / "work"
    outcomes: Outcomes = {}
    forget_judgements(work / name, name, benchmarks)
    entry = direct_entry(entrant.model, config) if server is None else served_entry(name, server.url, config)
    for needs_judge in (False, True):  # a run of VLMEvalKit has one judge: those without one are a run of their own
        some = [one for one in benchmarks if one.needs_judge is needs_judge]
        if not some:
            continue
        judge = config.judge_model if needs_judge else None
        kind = "judged" if judge else "unjudged"
        file, log = folder / f"config-{kind}.json", folder / f"vlmevalkit-{kind}.log"
        write_json(file, configuration(name, entry, some))
        log.unlink(missing_ok=True)
        words = command(python, file, work, config, judge)
        variables = vlmevalkit_variables(config, judged=judge is not None)
        (work / name).mkdir(parents=True, exist_ok=True)
        try:
            with processes.started(words, log, variables, folder) as process:
                processes.wait_for(process, log, server)
        except processes.ProcessFailedError as error:
            outcomes |= {one.kit_name: NoScoreError(f"VLMEvalKit {error}") for one in some}
            continue
        finally:
            remove_secret(variables.get(JUDGE_KEY), [log, *work.rglob("*.log")])
        outcomes |= read(python, work / name, some, judge, log, variables)
    return outcomes


def forget_judgements(results: Path, name: str, benchmarks: Sequence[Benchmark]) -> None:
    """Remove what was scored: VLMEvalKit would keep the score of a failed answer beside the answer that replaced it."""
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
) -> Outcomes:
    asked = json.dumps([{"name": one.kit_name, "scoring": one.scoring} for one in benchmarks])
    words = [str(python), str(READER), str(results), asked, judge or EXACT]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(variables), check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return {one.kit_name: NoScoreError(f"its files cannot be read: {reason} (log: {log})") for one in benchmarks}
    found = json.loads(done.stdout)
    if judge is not None and JUDGE_GAVE_UP in log.read_text("utf-8", errors="replace"):
        reason = f"the judge did not answer, and VLMEvalKit went on without (log: {log})"
        return {one.kit_name: NoScoreError(reason) for one in benchmarks}
    outcomes: Outcomes = {}
    for one in benchmarks:
        try:
            outcomes[one.kit_name] = benchmark_outcome(one, read_status(results), found)
        except NoScoreError as error:
            outcomes[one.kit_name] = NoScoreError(f"{error} (log: {log})")
    return outcomes


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


def remove_secret(secret: str | None, files: Sequence[Path]) -> None:
    """Remove the judge's key from log files, where VLMEvalKit writes it."""
    if not secret or secret == "none":
        return
    for file in files:
        text = file.read_bytes()
        if secret.encode() in text:
            file.write_bytes(text.replace(secret.encode(), b"(key removed)"))


def answer_mode(
    model: str, config: BenchmarkConfig, environment: processes.ToolEnvironment
) -> Literal["direct", "served"]:
    """The way in which a model answers: by VLMEvalKit's own class where that can run, else served.

    That class is for Qwen2.5-VL with whole weights and insists on a GPU and FlashAttention 2. Raises ValueError if it
    was asked for and cannot run.
    """
    reasons = []
    if model_type(model) != "qwen2_5_vl":
        reasons.append(f"its class is for Qwen2.5-VL, not {model_type(model)}")
    if (Path(model) / "adapter_config.json").is_file():
        reasons.append("it loads no LoRA adapter (make an export: python -m vision_zero.export)")
    if config.use_cpu or not environment.gpus:
        reasons.append("it needs a GPU")
    elif not environment.flash_attention:
        reasons.append("its environment has no flash-attn")
    if config.how == "direct" and reasons:
        raise ValueError(f"--how direct, {model}: {'; '.join(reasons)}")
    return "served" if reasons or config.how == "served" else "direct"


def direct_entry(model: str, config: BenchmarkConfig) -> dict[str, Any]:
    low, high = pixel_bounds(model, config)
    path = Path(model)
    return {
        "class": "Qwen2VLChat",
        "model_path": str(path.absolute()) if path.is_dir() else model,
        "min_pixels": low,
        "max_pixels": high,
        "max_new_tokens": config.max_new_tokens,
        "use_custom_prompt": False,
        "post_process": config.post_process,
        "system_prompt": config.system_prompt or None,
    }


def served_entry(name: str, url: str, config: BenchmarkConfig) -> dict[str, Any]:
    r"""The entry of a served model. Pixels and `\boxed{}` are set in the server: VLMEvalKit's API class has neither."""
    own = {"model": name, "api_base": f"{url}/v1/chat/completions", "max_tokens": config.max_new_tokens}
    return {**SERVED, **own, "system_prompt": config.system_prompt or None}


def configuration(name: str, entry: Mapping[str, Any], benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
    data = {one.kit_name: {"class": one.kit_class, "dataset": one.kit_name} for one in benchmarks}
    return {"model": {name: dict(entry)}, "data": data}


def command(python: Path, config_file: Path, work: Path, config: BenchmarkConfig, judge: str | None) -> list[str]:
    words = [str(python), "-m", "vlmeval.run", "--config", str(config_file), "--work-dir", str(work)]
    words += ["--api-nproc", str(config.nproc), "--judge", judge or EXACT]
    if judge and config.judge_url:
        words += ["--judge-base-url", config.judge_url]
    if config.limit:
        words += ["--limit", str(config.limit)]
    return words


def vlmevalkit_variables(config: BenchmarkConfig, judged: bool) -> dict[str, str]:
    """Environment of VLMEvalKit. It has the judge's key: a command line can be read by others on the machine."""
    kept = processes.tool_variables()
    if config.use_cpu:
        kept["CUDA_VISIBLE_DEVICES"] = ""
    if config.data_dir:
        kept["LMUData"] = str(Path(config.data_dir).absolute())
    if judged:
        kept[JUDGE_KEY] = os.environ.get(JUDGE_KEY) or "none"
    return kept
