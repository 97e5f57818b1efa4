"""Cross-play of all seeds of an arm: one result line, its section of the page, what is missing, and real small runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import cross_play
import report
import transfer
from results import latest, read_results
from study import ALL_SEEDS, load_studies
from tests.evaluate.win_rate.test_cross_play import run_of
from tests.experiments.study_files import MEASURED, write, write_lines
from vision_zero.run_folder import complete_checkpoints

ARMS = {"arms": {"base": None, "leak": {"train_stages": "both"}}, "seeds": [1, 2]}
TOGETHER = {**ARMS, **MEASURED, "together": True, "measure": "cross_play:matrix"}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study `one` whose arm base has two seeds with checkpoints, and `crossed`, which measures them together."""
    write(tmp_path, one=ARMS, crossed=TOGETHER)
    for name, place in {"STUDIES": "studies", "RESULTS": "results", "ROOT": "."}.items():
        monkeypatch.setattr(transfer, name, tmp_path / place)
    lines = [result(seed) for seed in (1, 2)]
    write_lines(tmp_path / "results" / "one.jsonl", *lines)
    for line in lines:
        run_of(tmp_path / line["run"])
    return tmp_path


def result(seed: int, **other: Any) -> dict[str, Any]:
    line = {"study": "one", "arm": "base", "seed": seed, "status": "done", "key": "k", "base": "b", "start": "start"}
    return {**line, "run": f"run{seed}", "commit": f"c{seed}", "final": {}, "curve": [], "curve_games": 4, **other}


def final(share: float) -> dict[str, Any]:
    names, play = ("start", "1", "2"), {f"grounding/civilian/{name}": [share, 0.0, 1.0] for name in ("true", "copied")}
    return {
        "games": 6,
        "figures": {"convention": [0.25, 0.125, 0.375], "skill": [0.0, None, None]},
        "over_models": {},
        "found": {i: {j: [share, 0.0, 1.0] for j in names} for i in names},
        "play": {i: {**play, "grounding/civilian/no_claim": [0.0, 0.0, 1.0]} for i in names},
    }


def test_an_arm_is_measured_once_and_what_is_missing_is_named(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[list[str], str]] = []

    def matrix(models: list[Path], start: Path) -> dict[str, Any]:
        asked.append(([str(model.relative_to(places)) for model in models], start.name))
        return final(0.5)

    monkeypatch.setattr(transfer, "find_measure", lambda name: matrix)
    for _ in range(2):
        assert transfer.main(["crossed"]) == 1
        said = capsys.readouterr().out
        assert "missing crossed/leak: one: without result or checkpoint: seed 1, seed 2" in said
    assert asked == [(["run1/checkpoint-2", "run2/checkpoint-2"], "start")]  # once
    (line,) = read_results("crossed", places / "results")
    assert (line["seed"], line["seeds"], line["run"], line["commit"]) == (ALL_SEEDS, [1, 2], ["run1", "run2"], "c1, c2")
    write_lines(places / "results" / "one.jsonl", result(1), result(2, start="another"))
    (places / "results" / "crossed.jsonl").unlink()
    assert transfer.main(["crossed"]) == 1
    assert "missing crossed/base: one: runs differ in start" in capsys.readouterr().out


def test_the_section_has_the_matrix_and_the_clues(places: Path) -> None:
    study = load_studies(places / "studies")["crossed"]
    line = {**result(ALL_SEEDS), "study": "crossed", "seeds": [1, 2], "final": final(0.5)}
    assert list(latest([line], study)) == [("base", ALL_SEEDS)]
    text = report.section(study, [line])
    assert "    python experiments/transfer.py crossed" in text
    assert "| civilians | start | seed 1 | seed 2 |" in text
    assert "| seed 2 | 0.500 | 0.500 | 0.500 |" in text
    assert "convention: 0.250 (0.125 to 0.375) over image pairs, – over seeds." in text
    assert "| seed 1 | 0.500 (0.000 to 1.000) | 0.500 (0.000 to 1.000) | 0.000 (0.000 to 1.000) |" in text
    assert "Missing: `leak`." in text
    assert "Missing: `base`" not in text


def test_real_models_of_two_runs(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_play, "GAMES", "4")
    monkeypatch.setattr(cross_play, "HELDOUT", "8")
    runs = [places / "run1", places / "run2"]
    for run in runs:
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({**config, "max_clue_tokens": 8, "max_vote_tokens": 8}))
    models = [complete_checkpoints(run)[-1] for run in runs]
    found = cross_play.matrix(models, Path(config["model_name_or_path"]))
    assert found["games"] == 4
    assert found["figures"]["convention"][0] == found["figures"]["skill"][0] == 0  # all are the tiny model
    line = {**result(ALL_SEEDS), "study": "crossed", "seeds": [1, 2], "final": found}
    assert "| seed 2 |" in report.section(load_studies(places / "studies")["crossed"], [line])


@pytest.mark.parametrize("wrong", [{"together": "yes"}, {"seeds": [1]}])
def test_what_cannot_be_together(wrong: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, one=ARMS, crossed={**TOGETHER, **wrong})
    with pytest.raises(ValueError, match=r"together: .* must be true or false, and true with runs_of and two seeds"):
        load_studies(tmp_path / "studies")
