"""What VLMEvalKit and lmms-eval leave, read from files of real runs: a score, or why there is none."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vision_zero.evaluate.benchmarks import lmms_eval
from vision_zero.evaluate.benchmarks.scores import NoScoreError
from vision_zero.evaluate.benchmarks.suite import BY_NAME, own_choice_set
from vision_zero.evaluate.benchmarks.vlmevalkit.run import benchmark_outcome, forget_judgements, read_status
from vision_zero.evaluate.bootstrap import compare_questions

RESULTS = Path(__file__).parent / "benchmark_results"
SHAPES = own_choice_set("drawn_shapes")


# ------------------------------------------------------------------------------------------- what VLMEvalKit left


def real(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a real run of VLMEvalKit left in status.json, and what reader.py found."""
    status = json.loads((RESULTS / f"vlmevalkit-{name}-status.json").read_text())
    return status["datasets"], json.loads((RESULTS / f"vlmevalkit-{name}-read.json").read_text())


def test_a_run_that_scored() -> None:
    found = benchmark_outcome(SHAPES, *real("scored"))
    assert len(found.questions) == 40
    assert sum(found.questions.values()) == 10
    assert found.metrics == {"split=none|Overall": 0.25}
    assert found.notes == ()


def test_samples_that_failed_are_no_score_of_zero() -> None:
    status, read = real("failed")
    assert status["drawn_shapes"]["status"] == "done"
    assert status["drawn_shapes"]["metrics"] == {"split=none|Overall": 0.0}  # what VLMEvalKit says, with status 0
    with pytest.raises(NoScoreError, match="40 of 40 samples failed"):
        benchmark_outcome(SHAPES, status, read)


def test_a_data_set_that_is_not_there() -> None:
    with pytest.raises(NoScoreError, match=r"VLMEvalKit failed: \[Errno 2\] No such file or directory"):
        benchmark_outcome(own_choice_set("not_there"), *real("missing"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"failed": 1}, "1 of 40 samples failed"),
        ({"error": "its files cannot be read: KeyError"}, "VLMEvalKit failed: its files cannot be read"),
        ({"skip_reason": "invalid_dataset"}, "VLMEvalKit skipped it: invalid_dataset"),
        ({"total": 0}, "left no predictions"),
        ({"questions": {}}, "no score per question"),
        ({"questions": {"0": 1.0}}, "1 of 40 samples have a score"),
        ({"questions": {str(n): 2.0 for n in range(40)}}, r"has the score 2\.0, which is not in 0\.\.1"),
        ({"questions": {str(n): 1.0 for n in range(40)}}, "the questions' mean is 1.0000, but VLMEvalKit says"),
    ],
)
def test_what_is_not_whole_is_no_score(change: dict[str, Any], message: str) -> None:
    status, read = real("scored")
    read["drawn_shapes"].update(change)
    with pytest.raises(NoScoreError, match=message):
        benchmark_outcome(SHAPES, status, read)


def test_a_run_that_was_stopped(tmp_path: Path) -> None:
    status, read = real("scored")
    status["drawn_shapes"]["status"] = "infer"
    with pytest.raises(NoScoreError, match="stopped while it was at 'infer'"):
        benchmark_outcome(SHAPES, status, read)
    with pytest.raises(NoScoreError, match="did not get to it"):
        benchmark_outcome(BY_NAME["MMStar"], status, read)
    with pytest.raises(NoScoreError, match="wrote no "):
        read_status(tmp_path)
    (tmp_path / "status.json").write_text("[")
    with pytest.raises(NoScoreError, match="is not a status of VLMEvalKit"):
        read_status(tmp_path)


def test_a_judge_that_failed() -> None:
    entry = {"status": "done", "metrics": {}}
    read = {"failed": 0, "total": 2, "judge_failed": 1, "questions": {"0": 1.0, "1": 0.0}}
    with pytest.raises(NoScoreError, match="1 of 2 samples were not judged"):
        benchmark_outcome(BY_NAME["LogicVista"], {"LogicVista": entry}, {"LogicVista": read})


def test_judgements_of_failed_answers_are_forgotten(tmp_path: Path) -> None:
    for name in ("m_S.xlsx", "m_S_checkpoint.pkl", "m_S_exact_matching_result.pkl", "m_T_acc.csv", "status.json"):
        (tmp_path / name).touch()
    forget_judgements(tmp_path, "m", [own_choice_set("S")])
    assert sorted(os.listdir(tmp_path)) == ["m_S.xlsx", "m_S_checkpoint.pkl", "m_T_acc.csv"]


# ------------------------------------------------------------------------------------------ what lmms-eval left


def lmms_run(folder: Path, rows: list[dict[str, Any]], metrics: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "1_results.json").write_text(json.dumps({"results": {"t": metrics}}))
    (folder / "1_samples_t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_lmms_eval_by_question(tmp_path: Path) -> None:
    rows = [
        {"doc_id": number, "right": float(number < 1), "detail": {"a": 1}, "filtered_resps": ["A"]}
        for number in range(4)
    ]
    metrics = {"alias": "t", "detail,none": 0.5, "right,none": 0.25, "right_stderr,none": 0.1}
    found = lmms_eval.read(lmms_run(tmp_path / "a", rows, metrics), "t", None)
    assert found.questions == {"0": 1.0, "1": 0.0, "2": 0.0, "3": 0.0}
    assert found.notes == ("metric right",)
    with pytest.raises(NoScoreError, match="--metric detail: not every sample has a value"):
        lmms_eval.read(tmp_path / "a", "t", "detail")
    rows[2]["filtered_resps"] = ["[LMMS_EVAL_REQUEST_FAILED after 3 retries] Error code: 500"]
    with pytest.raises(NoScoreError, match="1 of 4 samples failed"):
        lmms_eval.read(lmms_run(tmp_path / "b", rows, metrics), "t", None)
    with pytest.raises(NoScoreError, match="lmms-eval left no "):
        lmms_eval.read(tmp_path / "a", "other", None)


def test_a_real_run_of_lmms_eval() -> None:
    found = lmms_eval.read(RESULTS / "lmms-eval", "drawn_shapes", None)
    assert len(found.questions) == 40
    assert sum(found.questions.values()) == 10
    assert found.metrics["right,none"] == 0.25


def test_two_real_runs_question_by_question() -> None:
    base, model = (benchmark_outcome(SHAPES, *real(name)).questions for name in ("scored", "trained"))
    found = compare_questions(base, model)
    assert (found.questions, found.better, found.worse) == (40, 29, 0)
    assert found.difference.value == pytest.approx(0.725)
    assert found.difference.low == pytest.approx(0.575)
    with pytest.raises(ValueError, match="1 only the base, 0 only the model"):
        compare_questions(base, {name: value for name, value in model.items() if name != "7"})
    with pytest.raises(ValueError, match="no question was answered"):
        compare_questions({}, {})
