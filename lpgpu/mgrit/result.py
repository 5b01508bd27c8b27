"""What a solve did: its outcome, and the work it took, counted where it is done."""

from dataclasses import dataclass, field, fields, replace
from typing import Self

from torch import Tensor


@dataclass
class Work:
    """Counts of one solve: Φ evaluations per level, depth, messages. They hold on any machine."""

    evaluations: list[int]
    sequential_depth: int = 0
    messages: int = 0
    bytes_sent: int = 0


@dataclass(frozen=True)
class SolveResult:
    """The outcome of one solve.

    Attributes:
        iterations: cycles completed.
        converged: whether `tolerance` was met; None where none was asked for.
        evaluations: this rank's Φ evaluations per level, finest first; those of F-points swept again for "c_points" not
            counted.
        sequential_depth: the longest chain of dependent Φ evaluations, on whatever ranks, all that is independent
            running side by side.
        messages, bytes_sent: the states that this rank sent to others; sums and broadcasts are not counted.

    >>> net = LayerParallel(None, lambda: nn.Linear(8, 8), 64, 1.0, solver=MGRIT(levels=2, coarsening=8, iterations=2))
    >>> y = net(torch.ones(2, 8))
    >>> net.forward_result.iterations, net.forward_result.sequential_depth
    (2, 63)
    """

    iterations: int
    converged: bool | None
    evaluations: tuple[int, ...]
    sequential_depth: int
    messages: int
    bytes_sent: int
    squared_norms: tuple[Tensor, ...] = field(repr=False)
    final_squared_norm: Tensor | None = field(repr=False, default=None)

    @classmethod
    def of(
        cls,
        iterations: int,
        converged: bool | None,
        squared_norms: list[Tensor],
        work: Work,
        *,
        with_final: bool = False,
    ) -> "SolveResult":
        """The result of a solve that has just ended, with its work as counted so far.

        `with_final`: the last of the norms was taken after the last cycle.
        """
        *before, final = (*squared_norms, None) if not with_final else squared_norms
        return cls(
            iterations=iterations,
            converged=converged,
            evaluations=tuple(work.evaluations),
            sequential_depth=work.sequential_depth,
            messages=work.messages,
            bytes_sent=work.bytes_sent,
            squared_norms=tuple(before),
            final_squared_norm=final,
        )

    def with_walked(self, layers: int, here: int) -> Self:
        """With `layers` that were walked one by one before and after the solve, `here` of them by this rank."""
        finest, *coarser = self.evaluations
        return replace(self, evaluations=(finest + here, *coarser), sequential_depth=self.sequential_depth + layers)

    @property
    def residual_norms(self) -> tuple[float, ...]:
        """‖r‖₂ over the C-points of the finest level, entry i before correction i. On a GPU, reading waits for it."""
        return tuple(float(squared.sqrt()) for squared in self.squared_norms)

    @property
    def final_residual(self) -> float | None:
        """‖r‖₂ after the last cycle; None on one level, or where `MGRIT(final_residual=True)` did not ask for it."""
        return None if self.final_squared_norm is None else float(self.final_squared_norm.sqrt())

    def __repr__(self) -> str:
        shown = [f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr]
        if self.final_squared_norm is not None:
            shown.append(f"final_residual={self.final_residual:.3e}")
        return f"SolveResult({', '.join(shown)})"
