"""All tests, in processes that may die: what follows a test that hangs or crashes is run in another one.

python -m tests.session [arguments of pytest]      what `make test` runs; without arguments two shares side by side

A test that takes longer than its time limit ends its process, since a hang outside of Python can be ended in no other
way, and so does one that crashes the interpreter. It counts as failed. The last lines are the sum over all processes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

JOURNAL = "LPGPU_TEST_JOURNAL"
"""The variable with the path of the journal: a JSON object per event, written by `tests.conftest`."""

LONG = ["tests/kernels", "tests/test_on_ranks.py"]
SHARES = [[f"--ignore={each}" for each in LONG], LONG]
"""Arguments of pytest that share all tests between two processes."""

_journal = os.environ.pop(JOURNAL, None)  # not for the sessions that tests start


@dataclass
class Journal:
    """What has been started, and what has come of it, in all processes of a session."""

    path: Path
    outcomes: dict[str, str] = field(default_factory=dict)

    def read(self) -> None:
        """Take in all events there are; a test that was started, and came to no end, has "ended the process"."""
        self.outcomes = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            event = json.loads(line)
            self.outcomes[event["test"]] = event.get("outcome", "ended the process")

    def of(self, outcome: str) -> list[str]:
        """The tests with this outcome."""
        return [test for test, came in self.outcomes.items() if came == outcome]


def note(**event: str) -> None:
    """Add an event to the journal, where there is one."""
    if _journal is not None:
        with open(_journal, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def started() -> set[str]:
    """The tests of the journal, which are not to be run again."""
    if _journal is None:
        return set()
    journal = Journal(Path(_journal))
    journal.read()
    return set(journal.outcomes)


def run(arguments: list[str], output: IO[bytes] | None = None) -> int:
    """Run pytest until every test has had its turn; the exit code is 1 where one has failed or ended its process.

    What is printed goes to `output`, if given.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lpgpu-tests-") as folder:
        journal = Journal(Path(folder) / "journal")
        environment = os.environ | {JOURNAL: str(journal.path)}
        dead: list[str] = []
        while True:
            command = [sys.executable, "-m", "pytest", *arguments]
            code = subprocess.run(command, env=environment, stdout=output, stderr=output).returncode
            journal.read()
            before, dead = len(dead), journal.of("ended the process")
            if len(dead) == before or code == pytest.ExitCode.INTERRUPTED:
                break
            say(f"\n{dead[-1]} ended the process; the rest follows\n", output)
    if dead:
        counts = Counter(journal.outcomes.values())
        say(f"\n=== all processes: {dict(counts)} in {time.monotonic() - began:.0f} s", output)
        lines = [f"FAILED {test}" for test in journal.of("failed")] + [f"ENDED THE PROCESS {test}" for test in dead]
        say("\n".join(lines), output)
    return 1 if dead else int(code)


def say(text: str, output: IO[bytes] | None) -> None:
    """Print a line where pytest prints."""
    print(text, flush=True) if output is None else os.write(output.fileno(), f"{text}\n".encode())


def run_side_by_side(shares: list[list[str]]) -> int:
    """Run pytest with each of these arguments at the same time; what the first prints is shown live.

    The others' output follows when all have ended; the exit code is the worst.
    """
    with ThreadPoolExecutor(len(shares)) as pool, ExitStack() as files:
        outputs = [None, *(files.enter_context(tempfile.TemporaryFile()) for _ in shares[1:])]
        codes = list(pool.map(run, shares, outputs))
        for output in outputs[1:]:
            output.seek(0)
            print(output.read().decode(errors="replace"), flush=True)
    return max(codes)


if __name__ == "__main__":
    together = len(sys.argv) == 1 and (os.cpu_count() or 1) > 1
    sys.exit(run_side_by_side(SHARES) if together else run(sys.argv[1:]))
