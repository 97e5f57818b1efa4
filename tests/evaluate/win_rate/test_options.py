"""What the win rate takes from a run, and what it refuses before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.process_helpers import TINY_VLM
from vision_zero.evaluate.__main__ import main
from vision_zero.evaluate.win_rate.options import parse
from vision_zero.report.__main__ import main as report

OPTIONS: dict[str, Any] = {"images": ["drawn:8"], "model_name_or_path": str(TINY_VLM), "civilians": 2, "holdout": 0.0}


def write_run(folder: Path, **options: Any) -> str:
    (folder / "config.yaml").write_text(yaml.safe_dump({**OPTIONS, **options}))
    return str(folder)


@pytest.mark.parametrize(
    ("images", "holdout", "words", "noted"),
    [
        (["drawn:8"], 0.0, ("--images", "drawn:4"), True),
        (["drawn:8"], 0.0, ("--images", "drawn:4@8"), False),
        (["drawn:8"], 0.0, ("--images", "drawn:8", "--holdout", "0.5"), True),
        (["drawn:8"], 0.5, ("--images", "drawn:8", "--holdout", "0.5"), False),
        (["drawn:8"], 0.0, ("--drawn", "4"), False),
        (["no/such/folder"], 0.0, ("--images", "drawn:4"), False),
    ],
)
def test_images_that_were_trained_on_are_noted(
    images: list[str],
    holdout: float,
    words: tuple[str, ...],
    noted: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parse([write_run(tmp_path, images=images, holdout=holdout), *words])
    assert ("these are images that the run was trained on" in capsys.readouterr().err) is noted


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"civilians": 2.5}, "civilians: 2.5, which must be a whole number"),
        ({"num_generations": "many"}, "num_generations: 'many', which must be a whole number"),
        ({"spy_view": "blnak"}, "spy_view: 'blnak', which must be one of auto"),
    ],
)
def test_a_value_of_the_run_that_does_not_fit_is_named(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\S") as refused:
        parse([write_run(tmp_path, **options), "--drawn", "4"])
    assert f"{tmp_path / 'config.yaml'} has {reason}" in str(refused.value)


def test_a_config_that_is_no_yaml_is_named_by_all_that_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("a: [")
    says = f"error: {tmp_path / 'config.yaml'} holds no options (not a YAML file: "
    for command in ("win-rate", "clues"):
        with pytest.raises(SystemExit) as stopped:
            main([command, str(tmp_path)])
        assert str(stopped.value).startswith(says)
    assert report([str(tmp_path), "--summary"]) == 1
    assert capsys.readouterr().err.startswith(says)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--rollout_batch_size", "0"), "rollout_batch_size=0 must be at least 1"),
        (("--temperature", "nan"), "temperature"),
    ],
)
def test_values_that_cannot_be_played_with_are_refused(words: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        parse([write_run(tmp_path), "--drawn", "4", *words])
