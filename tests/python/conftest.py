"""What the Python tests share: the binary, the fixtures, and reading results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
sys.path.insert(0, str(ROOT / "examples"))
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "lpa"


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
