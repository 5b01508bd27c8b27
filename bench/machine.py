"""What a GPU can do, and what a kernel should take on it: estimates, to be replaced by measurements.

A launch of P programs, each of which does F flops and moves B bytes past the chip, n of them sharing an SM, takes

    t = ⌈P / (SMs · occupancy)⌉ · max(n F / (0.6 · rate of an SM), n SMs B / bandwidth, steps · latency) + overhead

The limit is the roofline's: all flops at the peak rate, or all bytes at the full bandwidth, whichever is longer. Peak
figures are the vendor's, for dense products; 0.6, latency and overhead are guesses.
"""

import math
from dataclasses import dataclass

import torch

REACHED = 0.6  # of the peak rate, by a kernel that is not limited otherwise
STEP_LATENCY = 0.26e-6  # seconds of one dependent step: products, barriers, gates (guess for a GRU of 64 units)
LAUNCH = 1.3e-6  # seconds, from a CUDA graph
RESERVED_SHARED = 1024  # bytes of shared memory that every block takes beside its own


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One GPU: clock in Hz, bandwidth in bytes/s, shared memory in bytes per SM, flops per clock and SM by unit."""

    name: str
    arch: int
    sms: int
    clock: float
    bandwidth: float
    shared: int
    flops: dict[str, int]
    registers: int = 65_536
    threads: int = 2_048

    def rate(self, unit: str) -> float:
        """Flops per second of one SM in products of this kind."""
        return self.flops[unit] * self.clock


_HOPPER = {"bf16": 4096, "fp16": 4096, "tf32": 2048, "tf32x3": 2048 / 3, "bf16x3": 4096 / 3, "ieee": 256, "fp64": 256}
_AMPERE = {"bf16": 2048, "fp16": 2048, "tf32": 1024, "tf32x3": 1024 / 3, "bf16x3": 2048 / 3, "ieee": 128, "fp64": 128}
H100 = Machine(name="H100", arch=90, sms=132, clock=1.755e9, bandwidth=3.35e12, shared=233_472, flops=_HOPPER)
H200 = Machine(name="H200", arch=90, sms=132, clock=1.755e9, bandwidth=4.8e12, shared=233_472, flops=_HOPPER)
A100 = Machine(name="A100", arch=80, sms=108, clock=1.41e9, bandwidth=2.04e12, shared=167_936, flops=_AMPERE)
MACHINES = (H200, H100, A100)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one call does: flops of all products, bytes to and from memory at the least, and how it is cut up.

    `programs` and dependent `steps` are those of one of its `launches`.
    """

    flops: float
    bytes: float
    programs: int
    steps: int
    unit: str
    launches: int = 1


@dataclass(frozen=True)
class Estimate:
    """Programs that share an SM, waves of programs, seconds expected; the roofline's seconds and what sets them."""

    occupancy: int
    waves: int
    seconds: float
    limit: float
    bound: str


def limit(work: Work, machine: Machine) -> tuple[float, str]:
    """The roofline's seconds, and whether flops or bytes set them."""
    by_flops = work.flops / (machine.rate(work.unit) * machine.sms)
    by_bytes = work.bytes / machine.bandwidth
    return max((by_flops, "flops"), (by_bytes, "bytes"))


def occupancy(registers: int, shared: int, num_warps: int, machine: Machine) -> int:
    """How many programs of these resources an SM holds."""
    threads = 32 * num_warps
    per_thread = max(8, -(-registers // 8) * 8)  # allocated eight at a time
    by_shared = machine.shared // (shared + RESERVED_SHARED)
    return max(1, min(machine.registers // (per_thread * threads), machine.threads // threads, by_shared, 32))


def estimate(work: Work, machine: Machine, *, registers: int, shared: int, num_warps: int) -> Estimate:
    """What a call should take with a kernel of these resources."""
    fits = occupancy(registers, shared, num_warps, machine)
    waves = math.ceil(work.programs / (machine.sms * fits))
    together = min(fits, math.ceil(work.programs / machine.sms))
    busy = min(machine.sms, work.programs)
    flops, bytes = (total / (work.programs * work.launches) for total in (work.flops, work.bytes))
    by_flops = together * flops / (REACHED * machine.rate(work.unit))
    by_bytes = together * busy * bytes / machine.bandwidth
    seconds = work.launches * (waves * max(by_flops, by_bytes, work.steps * STEP_LATENCY) + LAUNCH)
    return Estimate(fits, waves, seconds, *limit(work, machine))


def this_machine() -> Machine:
    """The machine of the current CUDA device.

    Raises:
        RuntimeError: for a GPU whose figures are not in this file.
    """
    name = torch.cuda.get_device_name()
    for machine in MACHINES:
        if machine.name in name:
            return machine
    raise RuntimeError(f"no peak figures of {name}; add them to bench/machine.py")
