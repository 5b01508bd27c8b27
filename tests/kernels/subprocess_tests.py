"""Tests that need a process of their own, which was started for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 500


def run_tests(path: Path, **environment: str) -> None:
    """Run pytest on `path` in another process with these variables set; what failed there fails here."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", str(path)]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"{path.name} took more than {SECONDS} s:\n{(hung.stdout or b'').decode()[-5000:]}")
    print(done.stdout[-300:])
    if done.returncode != 0:
        pytest.fail(f"{path.name} in its own process:\n{done.stdout[-20000:]}{done.stderr[-5000:]}")
