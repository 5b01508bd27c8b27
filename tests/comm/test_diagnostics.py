"""What is said of MPI where there is one, none, or a broken one."""

import importlib.util
import subprocess

import pytest

from lpgpu.comm.diagnostics import describe_mpi
from tests import launcher


@pytest.mark.skipif(bool(launcher.why_not("mpiexec")), reason=launcher.why_not("mpiexec") or "can be asked")
def test_the_library_and_its_word_on_cuda() -> None:
    found = describe_mpi({})
    assert found is not None
    assert "thread level" in found["MPI"]
    assert found["CUDA-aware"].startswith(("yes: ", "no: "))


def test_without_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert describe_mpi({}) == {"MPI": "none: mpi4py is not installed"}


def test_an_installation_that_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    ended = subprocess.CompletedProcess([], 1, stdout="", stderr="MPI_INIT failed\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: ended)
    assert describe_mpi({}) == {"MPI": "does not start: MPI_INIT failed"}


def test_an_installation_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for_ever(*arguments, timeout: float, **options):
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "run", wait_for_ever)
    found = describe_mpi({})
    assert found is not None and "no answer" in found["MPI"]
