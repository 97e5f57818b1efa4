"""Benchmarks and their results without the tools: names, configuration, readers on real files, pairing, tables."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from run_scripts import vlmevalkit_reader as reader
from tests.process_helpers import BENCH_MODEL, TINY_VLM
from vision_zero.evaluate.__main__ import main
from vision_zero.evaluate.benchmarks.options import (
    JUDGE_KEY,
    BenchmarkConfig,
    BenchmarkOptions,
    base_model,
    parse,
    pixel_bounds,
)
from vision_zero.evaluate.benchmarks.processes import ToolEnvironment, inspect_environment
from vision_zero.evaluate.benchmarks.scores import Score, fingerprint, read_score
from vision_zero.evaluate.benchmarks.suite import (
    BENCHMARKS,
    BY_NAME,
    PAPER,
    WITHOUT_JUDGE,
    find_benchmarks,
    judge_summary,
)
from vision_zero.evaluate.benchmarks.table import END, NONE_YET, START, fill_table, results_table, small_print
from vision_zero.evaluate.benchmarks.vlmevalkit.run import (
    answer_mode,
    command,
    configuration,
    direct_entry,
    remove_secret,
    served_entry,
    vlmevalkit_variables,
)
from vision_zero.evaluate.bootstrap import compare_questions
from vision_zero.run_folder import write_json

GPU = ToolEnvironment(Path("python"), {}, gpus=1, flash_attention=True)
CPU = ToolEnvironment(Path("python"), {}, gpus=0, flash_attention=False)


# ------------------------------------------------------------------------------------------------------------- names


def test_the_papers_benchmarks() -> None:
    assert len(PAPER) == 19
    assert len(BY_NAME) == len(BENCHMARKS)
    assert {one.scoring for one in BENCHMARKS} == set(reader.READERS)
    judged = [one.label for one in BENCHMARKS if one.paper and one.needs_judge]
    assert judged == ["MathVista", "MathVision", "WeMath", "MathVerse", "LogicVista", "DynaMath"]
    assert len(WITHOUT_JUDGE) == 13
    assert find_benchmarks(["MMStar", "no-judge", "MMStar"])[0].kit_name == "MMStar"
    assert len(find_benchmarks(["paper", "no-judge"])) == 19
    said = judge_summary(find_benchmarks(["MMStar", "MathVista_MINI"]))
    assert said == "need a judge: MathVista_MINI; scored without one: MMStar"
    assert find_benchmarks(["mine"], own=["mine"])[0].kit_class == "CustomMCQDataset"
    with pytest.raises(ValueError, match="--benchmarks mmstar: unknown"):
        find_benchmarks(["mmstar"])


# ----------------------------------------------------------------------------------------------------------- options


def options(*words: str) -> BenchmarkOptions:
    parsed = parse([str(TINY_VLM), "--base", str(BENCH_MODEL), *words])
    assert isinstance(parsed, BenchmarkOptions)
    return parsed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no benchmark: give --benchmarks"),
        (("--benchmarks", "MMStar", "MathVista_MINI"), "MathVista_MINI need a judge, a language model"),
        (("--benchmarks", "MathVista_MINI", "--judge_model", "x"), f"is OpenAI's, which needs {JUDGE_KEY}"),
        (("--benchmarks", "MMStar", "--limit", "0"), "--limit 0 must be above 0"),
        (("--benchmarks", "MMStar", "--min_pixels", "9", "--max_pixels", "4"), "--min_pixels 9 is more than"),
        (("--benchmarks", "MMStar", "--data_dir", "no/such"), "--data_dir no/such: there is no such folder"),
        (("--benchmarks", "x", "--with", "lmms-eval", "--how", "direct"), "--how direct goes with VLMEvalKit"),
        (("--benchmarks", "x", "--with", "lmms"), "--with lmms: must be one of vlmevalkit, lmms-eval"),
        (("--benchmarks", "MMStar", "--metric", "x"), "go with --with lmms-eval"),
    ],
)
def test_refused_before_anything_starts(words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JUDGE_KEY, raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["vlmevalkit", str(TINY_VLM), "--base", str(BENCH_MODEL), *words])
    assert str(stopped.value).startswith("error: ")
    assert message in str(stopped.value)


def test_base_is_where_training_began(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    with pytest.raises(ValueError, match="does not say which model it was trained from: give --base"):
        base_model(str(checkpoint))
    (tmp_path / "config.yaml").write_text("model_name_or_path: start\n")
    assert base_model(str(checkpoint)) == "start"
    (checkpoint / "base_model.json").write_text('{"base_model": "nearer"}')
    assert base_model(str(checkpoint)) == "nearer"
    assert base_model(str(checkpoint / "export")) == "nearer"


def test_an_environment_that_is_not_there_names_its_script(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not there; make .* run_scripts/setup_vlmevalkit\.sh --with lmms-eval"):
        inspect_environment(tmp_path / "python", ["lmms-eval"], " --with lmms-eval")


# ----------------------------------------------------------------------------------------------------- configuration


def test_direct_configuration() -> None:
    config = options("--benchmarks", "MMStar", "MUIRBench").config
    entry = direct_entry(str(TINY_VLM), config)
    assert entry == {
        "class": "Qwen2VLChat",
        "model_path": str(TINY_VLM),
        "min_pixels": 1003520,
        "max_pixels": 12845056,
        "max_new_tokens": 2048,
        "use_custom_prompt": False,
        "post_process": True,
        "system_prompt": "Think about the question first. Then give the final answer inside \\boxed{}.",
    }
    made = configuration("mine-0", entry, find_benchmarks(["MMStar", "MUIRBench"]))
    assert made["data"] == {
        "MMStar": {"class": "ImageMCQDataset", "dataset": "MMStar"},
        "MUIRBench": {"class": "MUIRDataset", "dataset": "MUIRBench"},
    }
    assert list(made["model"]) == ["mine-0"]


def test_served_configuration() -> None:
    config = options("--benchmarks", "MMStar", "--max_new_tokens", "9", "--system_prompt", "").config
    entry = served_entry("mine-0", "http://127.0.0.1:5", config)
    assert entry["class"] == "LMDeployAPI"
    assert entry["api_base"] == "http://127.0.0.1:5/v1/chat/completions"
    assert (entry["temperature"], entry["max_tokens"], entry["system_prompt"]) == (0, 9, None)


def family(folder: Path, model_type: str) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return str(folder)


def test_who_is_asked_directly_and_who_is_served(tmp_path: Path) -> None:
    qwen, intern = family(tmp_path / "qwen", "qwen2_5_vl"), family(tmp_path / "intern", "internvl")
    config = BenchmarkConfig()
    assert [answer_mode(one, config, GPU) for one in (qwen, intern)] == ["direct", "served"]
    assert answer_mode(qwen, config, CPU) == "served"
    assert answer_mode(qwen, BenchmarkConfig(use_cpu=True), GPU) == "served"
    assert answer_mode(qwen, BenchmarkConfig(how="served"), GPU) == "served"
    without = ToolEnvironment(Path("python"), {}, gpus=1, flash_attention=False)
    with pytest.raises(ValueError, match="its environment has no flash-attn"):
        answer_mode(qwen, BenchmarkConfig(how="direct"), without)
    with pytest.raises(ValueError, match=r"its class is for Qwen2\.5-VL, not internvl; it needs a GPU"):
        answer_mode(intern, BenchmarkConfig(how="direct"), CPU)
    assert pixel_bounds(intern, config) == (None, None)
    assert pixel_bounds(qwen, config) == (1003520, 12845056)
    assert pixel_bounds(qwen, BenchmarkConfig(max_pixels=12544)) == (12544, 12544)


def test_the_judge_and_nothing_of_another_run_reaches_vlmevalkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIP_ERR", "1")
    monkeypatch.setenv("LMDEPLOY_API_BASE", "elsewhere")
    monkeypatch.setenv(JUDGE_KEY, "secret")
    config = BenchmarkConfig(judge_model="j", judge_url="http://127.0.0.1:1/v1", limit=3, use_cpu=True)
    words = command(Path("p"), Path("c.json"), Path("w"), config, "j")
    assert words[words.index("--judge") + 1] == "j"
    assert words[words.index("--judge-base-url") + 1] == "http://127.0.0.1:1/v1"
    assert words[words.index("--limit") + 1] == "3"
    assert "secret" not in " ".join(words)
    unjudged = command(Path("p"), Path("c.json"), Path("w"), config, None)
    assert unjudged[unjudged.index("--judge") + 1] == "exact_matching"
    assert "--judge-base-url" not in unjudged
    judged = vlmevalkit_variables(config, judged=True)
    assert judged[JUDGE_KEY] == "secret"
    assert not {"SKIP_ERR", "LMDEPLOY_API_BASE", "PYTHONPATH"} & judged.keys()
    assert JUDGE_KEY not in vlmevalkit_variables(config, judged=False)
    assert judged["CUDA_VISIBLE_DEVICES"] == ""
    assert "127.0.0.1" in judged["NO_PROXY"]


def test_a_judges_key_leaves_no_trace(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("Using API Key: secret")
    remove_secret("secret", [log])
    assert log.read_text() == "Using API Key: (key removed)"


# ---------------------------------------------------------------------------------------------------- pairs, scores


scores_of_questions = st.lists(
    st.tuples(st.sampled_from((0.0, 0.5, 1.0)), st.sampled_from((0.0, 0.5, 1.0))), min_size=1
)


@given(scores_of_questions)
def test_the_difference_of_a_model_with_itself_is_nothing_and_signs_turn(pairs: list[tuple[float, float]]) -> None:
    base = {str(number): one for number, (one, _) in enumerate(pairs)}
    model = {str(number): other for number, (_, other) in enumerate(pairs)}
    forth, back = compare_questions(base, model), compare_questions(model, base)
    assert forth.difference.value == pytest.approx(forth.model.value - forth.base.value)
    assert forth.difference.value == pytest.approx(-back.difference.value)
    assert (forth.better, forth.worse) == (back.worse, back.better)
    same = compare_questions(base, base).difference
    most = 1 - 0.025 ** (1 / len(pairs))  # of all questions may have another difference; of one nothing is claimed
    assert same.value == 0
    assert (same.low, same.high) == ((None, None) if len(pairs) == 1 else pytest.approx((-most, most)))


def test_scores_are_kept_and_belong_to_files_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "scores" / "MMStar.json"
    score = Score("MMStar", "m", {"0": 1.0, "1": 0.0}, {"a": 1}, {"judge": None}, {"empty": 0}, 1.5)
    assert read_score(file) is None
    write_json(file, asdict(score))
    assert read_score(file) == score
    assert score.mean == 0.5
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"MMStar\.json: not a score"):
        read_score(file)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"1")
    first = fingerprint(str(model), {"limit": None})
    assert first == fingerprint(str(model), {"limit": None})
    assert first != fingerprint(str(model), {"limit": 3})
    (model / "model.safetensors").write_bytes(b"2")
    assert first != fingerprint(str(model), {"limit": None})


# ------------------------------------------------------------------------------------------------------------- table


def result() -> dict[str, Any]:
    difference = {"value": -0.01, "low": -0.03, "high": 0.0}
    compared = {
        "questions": 1500,
        "base": {"value": 0.646},
        "model": {"value": 0.636},
        "difference": difference,
        "better": 10,
        "worse": 25,
    }
    judge = {"model": "judge", "url": "http://127.0.0.1:1/v1"}
    return {
        "tool": "vlmevalkit",
        "base": "start",
        "models": ["mine"],
        "settings": {"start": {"limit": None}},
        "versions": {"ms-vlmeval": "0.0.20"},
        "benchmarks": {
            "MMStar": {"judge": None, "scores": {}, "differences": {"mine": compared}},
            "LogicVista": {
                "judge": judge,
                "scores": {"start": {"mean": 0.5, "questions": 448}},
                "differences": {},
            },
        },
    }


def test_table() -> None:
    lines = results_table(result()).splitlines()
    assert lines[2] == (
        "| MMStar | `mine` | 1500 | 64.6 | 63.6 | -1.0 (-3.0 to +0.0) | 10 / 25 "
        "| <sub>64.6 → 65.2 / 64.7 / 65.8</sub> |"
    )
    assert lines[3] == ("| LogicVista | `mine` | 448 | 50.0 | not scored | | | <sub>47.2 → 49.8 / 51.2 / 50.8</sub> |")
    assert "Base: `start`. In per cent, questions paired, greedy answers; ms-vlmeval 0.0.20." in lines
    assert "Judge: judge (http://127.0.0.1:1/v1)." in lines
    assert "another environment" in lines[-1]


def test_the_page_of_evaluation_has_the_place_of_the_table(tmp_path: Path) -> None:
    """`--fill docs/evaluation.md`, tried on a copy: a row for each of the paper's benchmarks, nothing else changed."""
    page, copy = Path(__file__).resolve().parents[3] / "docs" / "evaluation.md", tmp_path / "evaluation.md"
    copy.write_bytes(page.read_bytes())
    fill_table(copy, tmp_path / "result.json")
    filled = copy.read_text("utf-8")
    assert filled.partition(START)[0] == page.read_text("utf-8").partition(START)[0]
    assert filled.partition(END)[2] == page.read_text("utf-8").partition(END)[2]
    table = filled.partition(START)[2].partition(END)[0]
    assert [table.count(f"| {one.label} |") for one in BENCHMARKS if one.paper] == [1] * 19


def test_fill(tmp_path: Path) -> None:
    readme, out = tmp_path / "README.md", tmp_path / "out"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    main(["vlmevalkit", "--fill", str(readme), "--out", str(out)])
    empty = readme.read_text()
    assert empty.startswith(f"before\n{START}\n{NONE_YET}\n")
    assert empty.endswith(f"{END}\nafter\n")
    assert "| MathVista | `MathVista_MINI` | yes | <sub>68.2 → 72.2 / 72.4 / 73.1</sub> |" in empty
    out.mkdir()
    (out / "result.json").write_text(json.dumps(result()))
    fill_table(readme, out / "result.json")
    fill_table(readme, out / "result.json")
    assert readme.read_text() == f"before\n{START}\n{results_table(result())}\n{END}\nafter\n"
    (out / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="not a result of this command"):
        fill_table(readme, out / "result.json")
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="needs one line"):
        fill_table(readme, out / "result.json")
    for path, reason in ((readme, "is not a UTF-8 text"), (out, "cannot be read")):
        readme.write_bytes(b"\x89PNG\xff")
        with pytest.raises(ValueError, match=f"--fill {re.escape(str(path))}: {reason}"):
            fill_table(path, out / "result.json")
    assert small_print(()) == ""
