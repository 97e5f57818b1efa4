"""Which worker of pytest-xdist runs which files, what is not collected as garbage, and the run that files share."""

import gc
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
}.items():
    os.environ.setdefault(_name, _value)  # as run_scripts/test.sh, for who runs pytest alone

gc.disable()  # while torch, transformers and TRL are imported: millions of objects, none of them garbage


def pytest_collection_finish() -> None:
    """A training run ends with a full collection: half a second, if it looks at the objects of all imported modules."""
    gc.freeze()
    gc.enable()
    if "transformers" in sys.modules:
        import tests.quicker_libraries  # noqa: F401


RECORDED = {f"tests/{name}.py" for name in ("report/test_page", "report/test_report", "trainer/test_callbacks")}
"""Files whose tests look at `recorded_run`."""
LONGEST = [
    f"tests/{name}.py"
    for name in (
        "trainer/test_distributed",
        "trainer/test_learning",
        "trainer/test_resume",
        "trainer/test_vllm",
        "rollout/vllm/test_server",
        "rollout/vllm/test_colocate",
        "trainer/test_callbacks",
        "trainer/test_signals",
        "test_scripts",
        "trainer/test_gradient",
        "test_train",
        "experiments/tiny_vlm/test_tiny_vlm",
        "make_data/download/test_download",
        "evaluate/test_main",
        "make_data/test_main",
        "test_export",
        "experiments/test_run",
        "make_data/charts/test_charts",
        "evaluate/win_rate/test_callback",
        "trainer/test_prefix_sharing",
        "trainer/test_families",
        "trainer/test_batching",
        "trainer/test_waits",
        "evaluate/benchmarks/test_server",
        "trainer/test_logp_gap",
        "trainer/test_finite",
        "trainer/test_frozen_vision",
        "rollout/test_transformers_policy",
        "rollout/test_self_check",
        "make_data/photos/test_photos",
        "test_every_source_trains",
        "make_data/clevr/test_clevr",
        "test_run_folder",
        "test_toy_selfplay",
    )
]
"""Files that take longest begin first, so that no worker ends long after the others."""


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties += [(FAULT, mark.args[0]) for mark in item.iter_markers(FAULT)]
    files = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: files.get(file_of(item.nodeid), len(files)))


FAULT, TRIED, LOST = "fault", "tried", "lost"
"""Of a test that does something to a run: what, how often, and how many iterations were done again, if it counts."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A table of the faults that were tried: those after which the run was right, and what was lost."""
    rows: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            found = dict(report.user_properties)
            if FAULT not in found or (report.when != "call" and outcome == "passed"):
                continue
            row, tried = rows.setdefault(found[FAULT], Counter()), found.get(TRIED, 1)
            row.update({TRIED: tried, "right": tried if outcome == "passed" else 0})
            row.update({LOST: found[LOST]} if LOST in found else {})
    if rows:
        width = max(map(len, rows))
        terminalreporter.section("faults", sep="=")
        terminalreporter.line(f"{'fault':<{width}}  tried  right  iterations done again")
        for fault, row in sorted(rows.items()):
            terminalreporter.line(f"{fault:<{width}}  {row[TRIED]:>5}  {row['right']:>5}  {row.get(LOST, '-'):>5}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is run by one worker, which makes its fixtures once; those of RECORDED are run by the same one.

    `xdist_group` would say so too, but pytest-xdist 3.8 does not see it with pytest 9.2, whose node ids cannot be set.
    """
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = file_of(nodeid)
            return "recorded" if file in RECORDED else file

    gc.enable()  # this process collects no tests
    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def _one_fork_server_for_all_workers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if hasattr(request.config, "workerinput"):
        from tests import fork_server

        fork_server.SHARED = tmp_path_factory.getbasetemp().parent / "fork-server"


@pytest.fixture(scope="session")
def recorded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: tests that change something take a copy."""
    from tests.report_helpers import trained_run  # imports torch, which the process that starts the workers needs not

    return trained_run(tmp_path_factory.mktemp("recorded") / "run")
