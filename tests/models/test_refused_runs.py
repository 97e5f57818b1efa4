"""A run on a model that cannot be used ends with one line, before a game, and leaves no run behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.models.test_files import REFUSED
from tests.process_helpers import TINY_VLM, train


@pytest.mark.parametrize("name", ["adapter", "awq", "internvl", "no template", "pointer weights", "cut weights"])
def test_a_run_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    model = shutil.copytree(TINY_VLM, tmp_path / "model")
    REFUSED[name][0](Path(model))
    done = train(tmp_path / "run", model_name_or_path=model, iterations=1)
    assert done.status == 1
    sign_of_life, *lines = [line for line in done.output.splitlines() if "[transformers]" not in line]
    assert sign_of_life.startswith("vision_zero.train: loading")
    assert [line[:14] for line in lines] == ["error: model /"]
    assert not (tmp_path / "run").exists()


def test_two_processes_print_one_line(tmp_path: Path) -> None:
    model = Path(shutil.copytree(TINY_VLM, tmp_path / "model"))
    (model / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    done = train(tmp_path / "run", processes=2, model_name_or_path=model, iterations=1)
    assert done.status == 1
    assert done.output.count("error:") == 1


@pytest.mark.parametrize("wrong", [{"iterations": "many"}, {"schedule": "never"}, {"no_such_option": 1}])
def test_two_processes_print_one_line_of_a_slip(wrong: dict[str, object], tmp_path: Path) -> None:
    done = train(tmp_path / "run", processes=2, **wrong)
    assert done.status != 0
    assert done.output.count("error:") == 1
    assert len(done.output.splitlines()) <= 3  # the sign of life, the usage, the error
