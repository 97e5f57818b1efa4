"""What the pages tell a reader to run, set or open is there."""

import re
from argparse import ArgumentParser
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
from trl import ModelConfig

from vision_zero.config.options import GameConfig, IterativeSPOConfig
from vision_zero.evaluate.benchmarks.options import BenchmarkConfig
from vision_zero.make_data.photos import diffusion

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
CONFIGS = (GameConfig, IterativeSPOConfig, ModelConfig, BenchmarkConfig)
OPTIONS = {option.name for config in CONFIGS for option in fields(config)}
OTHER_FLAGS = {
    "all", "browser", "blender", "cpu", "fix", "force", "gpu", "help",  # setup.sh, test.sh, ruff
    "changed", "edits", "kinds", "min_difference", "parts_per_table", "tables",  # make_data charts
    "batch", "max_tokens", "model", "use_cpu",  # make_data.charts.read_charts
    "config", "name", "standalone", "nproc_per_node",  # TrlParser, torchrun, VLMEvalKit
    "game", "out", "sheet", "step", "curves", "summary",  # inspect_data, report
    "drawn", "games", "other_seed", "with",  # evaluate
    "evaluation", "image_size", "logdir",  # report, tensorboard
    "collect",  # gpu_checklist.sh --collect-wheels
    "against", "against_columns", "distance",  # inspect_data
    "archives", "domain", "layout", "limit", "part", "revision", "source", "split",  # make_data download
    "n", "size", "workers",  # make_data
    "attributes", "edit_share", "edited", "gap", "margin", "min_pixels", "objects",  # make_data clevr
    "blender_threads", "blender_timeout", "camera_jitter", "lamp_jitter", "renderer", "samples",  # make_data clevr
    "pixels",  # clevr_rules
    "local", "repo",  # hf download --local-dir, --repo-type
    "port",  # evaluate.benchmarks.server.server, vllm serve
}  # fmt: skip
_PHOTOS = ArgumentParser()
diffusion.add_arguments(_PHOTOS)
OTHER_FLAGS |= {option.dest for option in _PHOTOS._actions}  # make_data photos, make_data.photos.propose_edits


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"\b(?:configs|run_scripts|docs|src|data|tests)/[\w./-]+\w", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []


def test_modules_exist(page: Path) -> None:
    modules = re.findall(r"-m (vision_zero\.\w+)", page.read_text())
    assert [module for module in modules if find_spec(module) is None] == []


def test_flags_exist(page: Path) -> None:
    if page.name in ("performance.md", "results.md"):
        pytest.skip("figures, with the commands of benchmarks and tests that gave them")
    flags = re.findall(r"(?<![\w-])--([a-z]\w*)(?![\w*-])", page.read_text())
    assert sorted({flag for flag in flags if flag not in OPTIONS | OTHER_FLAGS}) == []


def test_variables_of_the_scripts_exist() -> None:
    scripts = [path.read_text() for path in ROOT.glob("run_scripts/*.sh")]
    known = {name for script in scripts for name in re.findall(r"^([A-Z_]+)=", script, re.MULTILINE)}
    used = set(re.findall(r"\b([A-Z_]{2,})=", (ROOT / "README.md").read_text()))
    assert used
    assert used - known == set()


def test_the_two_commands_stand_at_the_top() -> None:
    top = (ROOT / "README.md").read_text()[:1000]
    assert "bash run_scripts/quickstart.sh" in top
    assert "bash run_scripts/test.sh" in top
