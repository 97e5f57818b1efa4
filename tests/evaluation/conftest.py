"""One real run for all tests that look at the page of a run."""

from pathlib import Path

import pytest

from tests.report_helpers import trained_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("report") / "run")
