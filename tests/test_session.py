"""A test that hangs or crashes ends its process, and no more: the rest runs, and the summary says so."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SUITE = """
import os, time
import pytest

def test_before(): pass
@pytest.mark.timeout(1)
def test_hangs():
    while True:
        try:
            time.sleep(60)
        except BaseException:  # as a hang outside of Python does
            pass
def test_between(): pass
def test_fails(): raise ArithmeticError
def test_crashes(): os.abort()
@pytest.mark.skip(reason="for a reason")
def test_skipped(): pass
def test_after(): pass
"""


def run(suite: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "test_suite.py").write_text(suite)
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    command = [sys.executable, "-m", "tests.session", *options, f"--rootdir={ROOT}", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_rest_runs_and_the_summary_says_what_was_lost(tmp_path: Path) -> None:
    done = run(SUITE, tmp_path)
    assert done.returncode == 1, done
    *_, total, failed, hung, crashed = done.stdout.splitlines()
    assert "{'passed': 3, 'ended the process': 2, 'failed': 1, 'skipped': 1}" in total, done.stdout
    assert failed.startswith("FAILED ") and failed.endswith("test_fails")
    assert hung.startswith("ENDED THE PROCESS ") and hung.endswith("test_hangs")
    assert crashed.startswith("ENDED THE PROCESS ") and crashed.endswith("test_crashes")


def test_a_suite_that_ends_well_is_one_process(tmp_path: Path) -> None:
    done = run("def test_one(): pass\n", tmp_path)
    assert done.returncode == 0 and "1 passed" in done.stdout and "all processes" not in done.stdout


def test_a_suite_that_cannot_begin(tmp_path: Path) -> None:
    assert run("import nothing_of_this_name\n", tmp_path).returncode == 2
