"""What bounds the kernels in CUDA C++: a model of a step, as bench/explain.py has one of Triton's kernels.

Of a march, a step of all tiles of rows that take turns in a block, in cycles:

    trip       a message's way through the second-level cache, from the block that sends it to those that wait: 1000
    chain      behind each other in a thread: matrix instructions 33, sums of a warp 20, gates 240, the barrier 30
    cache      messages that all blocks read / the second-level cache's bandwidth
    matrix     flops / the peak rate of the block's multiprocessor

A step takes trip and chain once, or cache and matrix of all turns, whichever is longer. Of a sweep of convolutions, a
convolution of the blocks that share a multiprocessor: matrix instructions, shared memory (128 bytes a cycle), issue (4
instructions a cycle) and memory, with a barrier and the filter's way from the cache (700) as its chain. Of a scan:
bytes, a trip, and 8500 for each round.

Trip and cache are guesses that the measured marches agree with, mostly within a factor of 1.5. The 8500 are what rounds
of scans took on an H100, three times what its loads, products and barriers explain. No convolution was measured.
"""

import math
from dataclasses import dataclass

from cuda_conv_cases import ConvCase
from cuda_kernels import Case
from cuda_scan_cases import ScanCase
from machine import Machine, occupancy

from lpgpu.kernels.affine_scan import cuda_scan
from lpgpu.kernels.conv_step import cuda_sweep
from lpgpu.kernels.implicit_gru.cuda_march import CHUNK_UNITS, Plan, best_plan
from tests.kernels.cuda_compiled import read_table

TRIP, FILTER_WAY, ROUND, BARRIER, MATRIX, SUM, GATES = 1000, 700, 8500, 30, 33, 20, 240  # cycles
CACHE = 5.5e12  # bytes a second
LAUNCH = 3e-6


@dataclass(frozen=True)
class Explanation:
    """Seconds of a call, and its cycles a pass by what takes them; `passes` follow each other."""

    seconds: float
    passes: int
    cycles: dict[str, float]

    def cells(self) -> str:
        """Of the table: microseconds, what takes the most, the cycles of a pass."""
        shown = ", ".join(f"{name} {value:.0f}" for name, value in self.cycles.items() if value >= 1)
        longest = max(self.cycles, key=lambda name: self.cycles[name])
        return f"{1e6 * self.seconds:.1f} | {longest} | {self.passes} × ({shown})"


def march(case: Case, plan: Plan, machine: Machine) -> Explanation:
    """A march by one plan."""
    adjoint = case.operation == "gru-adjoint"
    gates, data, chunk = (1, 3, CHUNK_UNITS[plan.operand]) if adjoint else (3, 1, CHUNK_UNITS[plan.operand])
    chunks = -(-case.width // chunk)
    instructions = -(-chunks // plan.warps) * data * (3 if plan.operand == "tf32x3" else 1)
    flops = 2 * 16 * gates * plan.units * data * chunks * chunk
    message = chunks * 128 * (16 if adjoint else 8)
    cycles = {
        "trip": TRIP,
        "chain": instructions * MATRIX + plan.warps * gates * SUM + GATES + BARRIER,
        "cache": plan.turns * plan.ranks * plan.groups * message / CACHE * machine.clock,
        "matrix": plan.turns * flops / machine.flops[plan.operand],
    }
    of_step = max(cycles["trip"] + cycles["chain"], plan.turns * cycles["chain"]) + cycles["cache"] + cycles["matrix"]
    return Explanation(case.steps * of_step / machine.clock + LAUNCH, case.steps, cycles)


def convolutions(case: ConvCase, machine: Machine) -> Explanation:
    """A sweep of two convolutions a step."""
    operand = "bf16" if case.dtype.itemsize == 2 else "tf32x3"
    storage, kind = ("bf16", case.operation[5:]) if operand == "bf16" else ("fp32", case.operation[5:])
    taken = read_table()[f"conv_{kind}_{operand}_{storage}_c{case.channels} sm_{'90a' if machine.arch == 90 else 80}"]
    shared = cuda_sweep.shared_bytes(case.channels, operand, case.size, case.size)
    fits = max(1, occupancy(taken.registers, shared, cuda_sweep.WARPS, machine))
    blocks, pixels = case.images * case.intervals, case.size**2
    together, waves = min(fits, math.ceil(blocks / machine.sms)), math.ceil(blocks / (machine.sms * fits))
    chunk, products = CHUNK_UNITS[operand], 3 if operand == "tf32x3" else 1
    tiles, chunks, columns = math.ceil(pixels / 16), math.ceil(9 * case.channels / chunk), math.ceil(case.channels / 8)
    moved = (3 if kind == "adjoint" else 1) * pixels * case.channels * case.dtype.itemsize / 2  # of two convolutions
    cycles = {
        "matrix": together * 2 * 16 * tiles * chunks * chunk * 8 * columns / machine.flops[operand],
        "shared": together * tiles * chunks * (512 + columns * (512 if operand == "tf32x3" else 256)) / 128,
        "issue": together * tiles * (chunks * (8 + columns * (1 + 2 * products)) + 60 * columns) / 4,
        "memory": together * min(machine.sms, blocks) * moved / machine.bandwidth * machine.clock,
        "chain": FILTER_WAY + BARRIER + GATES,
    }
    of_pass = max(cycles["matrix"], cycles["shared"], cycles["issue"], cycles["memory"]) + cycles["chain"] / together
    passes = 2 * case.steps * waves
    return Explanation(passes * of_pass / machine.clock + LAUNCH, passes, cycles)


def scan(case: ScanCase, machine: Machine) -> Explanation:
    """One scan, or several."""
    columns = -(-case.columns // cuda_scan.COLUMNS)
    parts = cuda_scan.parts_of(case.columns, case.intervals, case.steps, case.dtype, machine.sms * 4)
    rounds = math.ceil(case.steps / (parts * cuda_scan.SPAN))
    waves = math.ceil(columns * parts * case.intervals / (machine.sms * 4))
    total = 4 * case.intervals * case.steps * case.columns * case.dtype.itemsize
    cycles = {
        "memory": total / machine.bandwidth * machine.clock / (rounds * waves),
        "trip": float(TRIP if parts > 1 else 0),
        "round": float(ROUND),
    }
    passes = rounds * waves
    return Explanation(passes * sum(cycles.values()) / machine.clock + LAUNCH, passes, cycles)


def explained(case: Case | ConvCase | ScanCase, machine: Machine) -> Explanation | None:
    """The model of a case, of a march by its best plan; None where it has none on this machine."""
    if isinstance(case, ConvCase):
        return convolutions(case, machine)
    if isinstance(case, ScanCase):
        return scan(case, machine)
    where = {"arch": machine.arch, "multiprocessors": machine.sms}
    plan = best_plan(case.width, case.batch, case.dtype, case.precision, resident=False, **where)
    return march(case, plan, machine) if plan else None
