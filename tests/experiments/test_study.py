"""Studies as files: what is refused, by the file's name and the value, and the keys of what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from study import STUDIES, key_of, load_base, load_studies, load_study, options_of
from tests.experiments.study_files import BASE, MEASURED, SMALL, write


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_parse(path: Path) -> None:
    study = load_study(path)
    if study.runs_of is not None:
        owner = load_study(path.with_name(f"{study.runs_of}.yaml"))
        assert {arm.name for arm in study.arms} <= {arm.name for arm in owner.arms}
        return
    assert len(study.seeds) >= 3
    assert study.final_games >= 400
    for arm in study.arms:
        options = {**options_of(arm, load_base(), study.seeds[0], study.curve_games)}
        options["model_name_or_path"] = "tests/models/bench_model"
        key_of(options)  # training would take them


def test_keys_are_of_what_is_trained() -> None:
    key = key_of(BASE)
    same = {"seed": 9, "arena_every": 0, "save_steps": 2, "rae_alpha": 0.95, "train_stages": "active"}
    for name, value in same.items():
        assert key_of({**BASE, name: value}) == key, name
    for name, value in {"rae_alpha": 0.9, "iterations": 3, "images": ["drawn:9"], "failed_edits": 0.1}.items():
        assert key_of({**BASE, name: value}) != key, name
    assert key_of({**BASE, "model_name_or_path": "data/tiny_vlm"}) != key
    with pytest.raises(ValueError, match="there is no model in"):
        key_of({**BASE, "model_name_or_path": "no/model"})
    with pytest.raises(ValueError, match="learning_rate=-1"):
        key_of({**BASE, "learning_rate": -1.0})


GOOD = {**SMALL, "arms": {"base": None}}
MISTAKES = {
    "without arms": ({**SMALL}, "arms"),
    "no arms": ({**SMALL, "arms": {}}, "a study needs arms"),
    "no mapping": ([], "name: value"),
    "unknown": ({**GOOD, "more": 1}, "more"),
    "text": ({**GOOD, "title": 3}, "title: 3 must be text"),
    "seeds twice": ({**GOOD, "seeds": [1, 1]}, r"all different, not \[1, 1\]"),
    "no seeds": ({**GOOD, "seeds": []}, "a study needs"),
    "seed of text": ({**GOOD, "seeds": ["1"]}, "seeds: '1' must be a whole number"),
    "seed of bool": ({**GOOD, "seeds": [True]}, "seeds: True must be a whole number"),
    "seed below 0": ({**GOOD, "seeds": [-1]}, "seeds: -1 must be"),
    "odd": ({**GOOD, "final_games": 5}, "final_games: 5 must be an even number from 4"),
    "few": ({**GOOD, "curve_games": 2}, "curve_games: 2 must be an even number from 4"),
    "games of text": ({**GOOD, "curve_games": "4"}, "curve_games: '4' must be"),
    "games of a measure": ({**GOOD, **MEASURED, "final_games": 4}, "final_games: 4 must be 0"),
    "runs_of alone": ({**GOOD, "runs_of": "one"}, "runs_of and measure"),
    "start": ({**GOOD, "arms": {"base": {"start": 3}}}, "start 3 must be"),
    "arm's path": ({**GOOD, "arms": {"../base": {}}}, "arm '../base' must be a name"),
    "arm of bool": ({**GOOD, "arms": {False: {}}}, "arm False must be a name"),
    "arm's number": ({**GOOD, "arms": {"base": 3}}, "not a study"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_file_that_is_no_study_is_refused(mistake: str, tmp_path: Path) -> None:
    content, said = MISTAKES[mistake]
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=rf"bad\.yaml: .*{said}"):
        load_study(file)
    file.write_text(yaml.safe_dump(GOOD))
    assert load_study(file).seeds == (1,)


@pytest.mark.parametrize(
    "option", ["seed", "data_seed", "output_dir", "resume", "arena_games", "run_name", "logging_dir"]
)
def test_options_that_the_runner_sets_are_no_arms(option: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**GOOD, "arms": {"base": {option: 1}}}))
    with pytest.raises(ValueError, match=rf"bad\.yaml: .*arm base has the option {option}, which the runner sets"):
        load_study(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"title: \xff\n", "not a YAML file: .*utf-8"),
        (b"arms: [", "not a YAML file"),
        (b"seeds: [1]\nseeds: [2]\n", "seeds is there twice"),
        (b"arms:\n  a: {rho: 1, beta: 0, rho: 2}\n", "rho is there twice"),
    ],
)
def test_a_file_that_cannot_be_read_as_it_is_meant_is_refused(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=rf"bad\.yaml: .*{said}"):
        load_study(tmp_path / "bad.yaml")


@pytest.mark.parametrize("owner", ["nothing", "measured"])
def test_what_is_measured_must_be_run(owner: str, tmp_path: Path) -> None:
    measured: Mapping[str, Any] = {**GOOD, **MEASURED, "runs_of": owner}
    write(tmp_path, one=GOOD, measured=measured)
    with pytest.raises(ValueError, match=rf"measured\.yaml: runs_of: '{owner}' must be a study that is run"):
        load_studies(tmp_path / "studies")


def test_the_study_of_the_first_run_is_of_the_shipped_quick_start() -> None:
    study = load_study(STUDIES / "first_run.yaml")
    shipped = yaml.safe_load((STUDIES.parents[1] / "configs" / "quickstart.yaml").read_text())
    assert key_of(options_of(study.arms[0], load_base(), 11, 200)) == key_of(shipped)
    assert shipped["arena_every"] == study.arms[0].options["arena_every"]
    assert shipped["arena_games"] == study.curve_games
