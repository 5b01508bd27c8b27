"""A test that hangs or crashes ends its process, and no more: the rest runs, and the summary says so."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.session import SHARES

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


def run(suite: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_suite.py").write_text(suite)
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    command = [sys.executable, "-m", "tests.session", *options, f"--rootdir={ROOT}", *more, str(folder)]
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


DRAWS = """
import torch
from hypothesis import given, strategies as st

drawn = []

@given(st.integers())
def test_examples(n): drawn.append(n)
def test_tensors(): print("drew", torch.randint(10**9, (3,)).tolist(), hash(tuple(drawn)))
def test_others(): print("drew", torch.randint(10**9, (3,)).tolist())
"""


def test_every_run_draws_the_same_unless_it_is_asked_for_something_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draws(seed: str) -> list[str]:
        monkeypatch.setenv("LPGPU_TEST_SEED", seed)
        return [line for line in run(DRAWS, tmp_path, "-s").stdout.splitlines() if "drew" in line]

    usual, fresh = draws(""), draws("fresh")
    assert len(usual) == len(fresh) == 2 and usual[0].split("]")[0] != usual[1].split("]")[0]
    assert draws("") == usual
    assert all(came != before for came, before in zip(fresh, usual, strict=True))


def test_shares_run_at_the_same_time_and_the_worst_decides(tmp_path: Path) -> None:
    """Each waits for the other; one fails. The live output comes first."""
    meet = """
import time
from pathlib import Path

def test_{own}():
    Path(r"{folder}/{own}").touch()
    began = time.monotonic()
    while not Path(r"{folder}/{other}").exists():
        assert time.monotonic() < began + 60
        time.sleep(0.1)
    assert "{own}" != "second"
"""
    for own, other in (("first", "second"), ("second", "first")):
        (tmp_path / f"test_{own}.py").write_text(meet.format(own=own, other=other, folder=tmp_path))
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"]
    shares = [[*options, str(tmp_path / f"test_{own}.py")] for own in ("first", "second")]
    program = f"import sys\nfrom tests import session\nsys.exit(session.run_side_by_side({shares!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done
    assert 0 < done.stdout.index("1 passed") < done.stdout.index("1 failed"), done.stdout


def test_the_shares_are_all_tests() -> None:
    ignoring, own = SHARES
    assert ignoring == [f"--ignore={each}" for each in own] and all((ROOT / each).exists() for each in own)
