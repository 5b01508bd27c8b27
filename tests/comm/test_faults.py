"""Nothing hangs: whatever happens to one rank, the job ends on all of them, soon, and says why."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import launcher

EVERY = pytest.mark.parametrize("name", launcher.those_that_start("mpiexec", "forked"))
ONE_OF_EACH = pytest.mark.parametrize("name", launcher.those_that_start("mpiexec", "torchrun"))
MPI_ONLY = pytest.mark.parametrize("name", launcher.those_that_start("mpiexec"))

SOON = 20.0  # seconds from the fault to the job's end

SCRIPT = """
import os, signal, sys, threading, time
import torch
from torch import nn
from lpgpu import GRU, MGRIT, LayerParallel
from lpgpu.comm.choice import size_and_rank, split
from lpgpu.comm.launcher import world_of_launcher

comm = world_of_launcher()
size, rank = size_and_rank(comm)
at_fault = rank == 1
torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.faulty = False

    def forward(self, u):
        if self.faulty:
            raise OverflowError("the block is at fault")
        return torch.tanh(self.linear(u))


def fault_now():
    print("fault at", time.time(), flush=True)


net = LayerParallel(comm, Block, 8, 1.0)
x = torch.randn(3, 4)


def train(steps, loss=lambda y, step: y.square().sum()):
    for step in range(steps):
        loss(net(x), step).backward()


train(1)
"""


@dataclass(frozen=True)
class Fault:
    """What one of two ranks does, and what must then be read on some rank's output."""

    script: str
    says: str


FAULTS = {
    "raised in a block": Fault(
        """
net.layers.faulty = at_fault
fault_now()
train(3)
""",
        "OverflowError: the block is at fault",
    ),
    "no backward": Fault(
        """
fault_now()
for step in range(3):
    y = net(x)
    if not at_fault:
        y.sum().backward()
""",
        "all 2 ranks of this communicator wait for each other",
    ),
    "one forward more": Fault(
        """
fault_now()
if at_fault:
    net(x)
train(1)
""",
        "all 2 ranks of this communicator wait for each other",
    ),
    "raised in a loss": Fault(
        """
def loss(y, step):
    if at_fault and step == 1:
        fault_now()
        raise ArithmeticError("the loss is at fault")
    return y.square().sum()

train(100000, loss)
""",
        "ArithmeticError: the loss is at fault",
    ),
    "raised in another thread": Fault(
        """
def work():
    fault_now()
    raise LookupError("the thread is at fault")

if at_fault:
    threading.Thread(target=work).start()
train(100000)
""",
        "LookupError: the thread is at fault",
    ),
    "killed": Fault(
        """
if at_fault:
    fault_now()
    os.kill(os.getpid(), signal.SIGKILL)
train(100000)
""",
        "fault at",
    ),
    "swallowed, and left": Fault(
        """
net.layers.faulty = at_fault
try:
    fault_now()
    train(3)
except OverflowError:
    print("never mind", flush=True)
""",
        "never mind",
    ),
    "sys.exit on one rank": Fault(
        """
if at_fault:
    fault_now()
    sys.exit()
train(100000)
""",
        "rank 1 of this communicator has ended while rank 0 still waits",
    ),
}

OWN_TO_EACH = ["raised in a block", "no backward", "killed", "sys.exit on one rank"]
"""Faults that each back end notices in its own way; the others take the same way above it."""


@EVERY
@pytest.mark.parametrize("fault", OWN_TO_EACH)
def test_the_job_ends_soon_and_says_why(name: str, fault: str, tmp_path: Path) -> None:
    assert_ends_soon_and_says_why(name, FAULTS[fault], tmp_path)


@MPI_ONLY
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in OWN_TO_EACH])
def test_so_do_its_like(name: str, fault: str, tmp_path: Path) -> None:
    assert_ends_soon_and_says_why(name, FAULTS[fault], tmp_path)


def assert_ends_soon_and_says_why(name: str, fault: Fault, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + fault.script)
    done = launcher.run(name, 2, script, timeout=60)
    ended = time.time()
    assert done.status != 0, done.everything
    assert any(fault.says in text for text in done.of_ranks), done.everything
    began = [float(line.split()[-1]) for text in done.of_ranks for line in text.splitlines() if "fault at" in line]
    assert ended - max(began) < SOON, done.everything


@ONE_OF_EACH
def test_ctrl_c_ends_the_job(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + 'print("ready", flush=True)\ntrain(10**9)\n')
    job = launcher.Job(name, 2, script)
    until = time.monotonic() + 40
    while time.monotonic() < until and not all("ready" in job.output_of(rank) for rank in range(2)):
        time.sleep(0.1)
    job.interrupt()
    began = time.monotonic()
    done = job.wait(timeout=SOON)
    assert done.status != 0
    assert time.monotonic() - began < SOON


@EVERY
def test_no_wait_is_longer_than_the_limit(name: str, tmp_path: Path) -> None:
    assert_limited(name, "net(x) if at_fault else time.sleep(60)", tmp_path)


@MPI_ONLY
def test_nor_is_that_of_a_network_that_is_made(name: str, tmp_path: Path) -> None:
    made = "LayerParallel(comm if at_fault else None, Block, 4, 1.0)"
    assert_limited(name, f"comm = split(comm, 0, rank)\n{made}", tmp_path)


def assert_limited(name: str, made: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{SCRIPT}{made}\ntime.sleep(60)\n")
    done = launcher.run(name, 2, script, timeout=60, environment={"LPGPU_TIMEOUT": "2"})
    assert done.status != 0
    assert "LPGPU_TIMEOUT" in done.of_ranks[1], done.everything


@MPI_ONLY
def test_a_slow_rank_is_waited_for(name: str, tmp_path: Path) -> None:
    """Longer than it takes to notice a standstill."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + 'if at_fault:\n    time.sleep(9)\ntrain(1)\nprint("done", flush=True)\n')
    done = launcher.run(name, 3, script, timeout=60)
    assert done.status == 0, done.everything
    assert all("done" in text for text in done.of_ranks)


@ONE_OF_EACH
def test_a_job_that_ends_well_is_not_disturbed(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + 'train(2)\ntime.sleep(0.5 * rank)\nprint("done", flush=True)\n')
    done = launcher.run(name, 2, script, timeout=60)
    assert done.status == 0, done.everything
    assert all("done" in text for text in done.of_ranks)


@EVERY
def test_an_error_of_all_ranks_is_printed_once(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + "LayerParallel(comm, Block, 4, -1.0)\n")
    done = launcher.run(name, 2, script, timeout=60)
    assert done.status != 0
    assert sum(text.count("ValueError: Tf is -1.0") for text in done.of_ranks) == 1, done.everything


@MPI_ONLY
def test_the_limit_is_a_number_of_seconds(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = launcher.run(name, 2, script, timeout=60, environment={"LPGPU_TIMEOUT": "soon"})
    assert done.status != 0
    assert any("LPGPU_TIMEOUT is 'soon'" in text for text in done.of_ranks), done.everything
