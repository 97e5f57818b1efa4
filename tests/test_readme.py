"""What the pages tell a reader to run, set or open is there."""

import re
from argparse import ArgumentParser
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
from trl import ModelConfig

from vision_zero.config.game import GameConfig
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.evaluate.benchmarks.options import BenchmarkConfig
from vision_zero.make_data.photos import maker
from vision_zero.plan.fit import OPTIONS as PLAN

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
CONFIGS = (GameConfig, IterativeSPOConfig, ModelConfig, BenchmarkConfig)
OPTIONS = {option.name for config in CONFIGS for option in fields(config)}
OTHER_FLAGS = {
    "all", "browser", "blender", "cpu", "fix", "force", "gpu", "help",  # setup.sh, test.sh, ruff
    "changed", "edits", "kinds", "min_difference", "parts_per_table", "tables",  # make_data charts
    "batch", "max_tokens", "model", "use_cpu",  # run_scripts/read_charts.py
    "config", "name", "standalone", "nproc_per_node", "rdzv_backend",  # TrlParser, torchrun, VLMEvalKit
    "nodes", "requeue",  # sbatch
    "game", "out", "sheet", "step", "curves", "summary",  # inspect_data, report
    "drawn", "games", "other_seed", "reference", "with",  # evaluate
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
maker.add_arguments(_PHOTOS)
OTHER_FLAGS |= {*PLAN, "preset"}
OTHER_FLAGS |= {option.dest for option in _PHOTOS._actions}  # make_data photos, run_scripts/propose_edits.py


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def prose(page: Path) -> str:
    """The page without code: fenced, indented by four spaces, or between backticks."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?m)(?<=\n\n)(?: {4}.*\n)+", "", text))


def anchors(page: Path) -> set[str]:
    """What `#...` may name: its headings as GitHub writes them, `-1`, `-2` behind those that come again."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", page.read_text("utf-8"), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
    return {f"{anchor}-{n}" if n else anchor for anchor, most in found.items() for n in range(most + 1)}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page whose file, or whose heading in it, is not there."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("linking", [*PAGES, ROOT / "experiments" / "README.md"], ids=lambda path: path.name)
def test_links_lead_to_a_file_and_a_heading(linking: Path) -> None:
    assert broken_links(linking) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    """Also beside links that are right, and not in code."""
    there = tmp_path / "there.md"
    there.write_text("# Why `a_b`, the 2nd?\n\n## Same\n\n## Same\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Top\n\n[a](there.md) [b](there.md#why-a_b-the-2nd) [c](#top) [d](there.md#same-1) [e](https://x.y/z#w)\n"
        "`[f](gone.md)`\n\n    [g](gone.md)\n\n[h](gone.md) [i](there.md#same-2) ![j](gone.png) [k](#bottom)\n"
    )
    assert broken_links(page) == ["gone.md", "there.md#same-2", "gone.png", "#bottom"]


def test_the_documentation_is_few_pages_that_open_with_what_they_answer() -> None:
    pages = sorted(ROOT.glob("docs/**/*.md"))
    assert len(pages) <= 9, f"{len(pages)} pages in docs/, at most 9: {[page.name for page in pages]}"
    for page in pages:
        title, _, opening, *_ = page.read_text("utf-8").splitlines()
        assert title.startswith("# ")
        assert opening.startswith("This page answers"), page.name


def test_results_begin_with_one_page_of_findings() -> None:
    before, _, _ = (ROOT / "docs" / "results.md").read_text("utf-8").partition("\n## Studies\n")
    findings = before.partition("\n## How it was measured\n")[0]
    assert "\n## Findings\n" in findings
    assert len(findings.splitlines()) <= 60
    assert "\n|" not in findings  # tables stand behind


def test_paths_exist(page: Path) -> None:
    paths = re.findall(r"\b(?:configs|run_scripts|docs|src|data|tests)/[\w./-]+\w", page.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


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
