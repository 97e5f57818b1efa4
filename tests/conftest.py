"""Which tests share a process of pytest-xdist, what they need not collect, and the run that several files look at."""

import gc
from pathlib import Path

import pytest

gc.disable()  # while torch, transformers and TRL are imported: millions of objects, none of them garbage


def pytest_collection_finish() -> None:
    """A training run ends with a full collection: half a second, if it looks at the objects of all imported modules."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file share a process, and so its fixtures, unless their `xdist_group` says with whom they share.

    These groups are the longest, so they come first: with `--no-loadscope-reorder` no process ends long after others.
    """
    alone = [item for item in items if item.get_closest_marker("xdist_group") is None]
    for item in alone:
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=set(alone).__contains__)


@pytest.fixture(scope="session")
def recorded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: tests that change something take a copy. They share the xdist group "report"."""
    from tests.report_helpers import trained_run  # imports torch, which the process that starts the workers needs not

    return trained_run(tmp_path_factory.mktemp("recorded") / "run")
