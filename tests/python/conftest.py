"""What the Python tests share: the binary, the fixtures, and reading results."""

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Results of an analysis, which may lie beside the runs.
RESULTS = ("*.parquet", "lpa-references")
_COPIES = tempfile.mkdtemp(prefix="lpa-fixtures-")
atexit.register(shutil.rmtree, _COPIES, ignore_errors=True)
# Copies, so that no test writes into the source tree or finds what an analysis has left there.
FIXTURES = Path(shutil.copytree(ROOT / "fixtures", Path(_COPIES) / "fixtures", ignore=shutil.ignore_patterns(*RESULTS)))
sys.path.insert(0, str(ROOT / "examples"))
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "lpa"


# Files of tests that take longest, which are begun first.
LONGEST = ("test_ranks.py", "test_slurm.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish():
    # What was imported lives as long as the tests, and is not looked through at each collection of garbage.
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _nothing_is_written_into_fixtures():
    yield
    assert not [f for pattern in RESULTS for f in FIXTURES.rglob(pattern)]


@pytest.fixture
def lpa_command():
    """Runs the binary and returns the finished process; fails the test unless it exits with 0."""
    def run(*args, **kwargs):
        done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True, **kwargs)
        assert done.returncode == 0, done.stderr
        return done
    return run


@pytest.fixture
def analyze(lpa_command, tmp_path):
    """Analyzes a run and returns the path of the Parquet table."""
    def run(path, *args):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        lpa_command("analyze", path, "--out", out, "--quiet", *args)
        return out
    return run
