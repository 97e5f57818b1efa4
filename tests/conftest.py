"""One real run for all tests that look at what a run leaves: its page, and what trackers keep of it."""

from pathlib import Path

import pytest

from tests.report_helpers import trained_run


@pytest.fixture(scope="session")
def recorded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: tests that change something take a copy. They share the xdist group "report"."""
    return trained_run(tmp_path_factory.mktemp("recorded") / "run")
