"""One measured row of `bench/kernels.py`: the check first, then our time, then that of what else could be run."""

from dataclasses import dataclass, field

from gpu_timing import Times, copies_past_cache, eager_times, graph_times
from kernel_case import Case, clone, nbytes
from machine import Machine, estimate
from resources import resources_of

from lpgpu.kernels import dispatch


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured case; seconds of a call, `eager` with the host's. `times` is None where the result was wrong."""

    name: str
    operation: str
    shape: str
    dtype: str
    error: float
    times: Times | None
    eager: float | None
    limit: float
    bound: str
    estimate: float
    flops: float
    bytes: float
    rivals: dict[str, float] = field(default_factory=dict)

    @property
    def percent(self) -> float:
        """Of the limit."""
        return 100 * self.limit / self.times.p50 if self.times else 0.0


def measure(case: Case, machine: Machine) -> Row:
    """Check the case, time it, and time its rivals."""
    inputs = case.make()
    error = case.error(inputs)
    expected = estimate(case.work, machine, **resources_of(case, machine.arch))
    times, eager, rivals = None, None, {}
    if error <= case.allowed:
        copies = [clone(inputs) for _ in range(copies_past_cache(nbytes(inputs)))]
        times = graph_times(case.call, copies)
        eager = eager_times(lambda: case.call(inputs)).p50
        with dispatch.backend("reference"):
            rivals["PyTorch"] = graph_times(case.call, copies[:2], replays=10).p50
        del copies
        for name, rival in case.rivals.items():
            run, theirs = rival()
            rivals[name] = graph_times(run, [theirs], replays=10).p50
    return Row(
        name=case.name,
        operation=case.operation,
        shape=case.shape,
        dtype=str(case.dtype).removeprefix("torch."),
        error=error,
        times=times,
        eager=eager,
        limit=expected.limit,
        bound=expected.bound,
        estimate=expected.seconds,
        flops=case.work.flops,
        bytes=case.work.bytes,
        rivals=rivals,
    )
