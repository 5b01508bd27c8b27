"""What the epoch under way has measured so far: enough to finish its record, also after an interruption."""

from typing import Any

import torch

from lpgpu.profiling import Timings
from lpgpu.train.methods.solvers import Solves
from lpgpu.train.runs.metrics import Record, RunningMean, mean_history
from lpgpu.train.setup.metric import Metric
from lpgpu.train.setup.ranks import Ranks


class Measures:
    """Loss, metric, residuals, work, decisions and seconds of the batches of one epoch.

    Loss and metric are of all data ranks together, the rest of this rank. A record or a state is taken by all.

    Attributes:
        batches: how many were trained on.
        work: gradients of the finest network, a coarser one counting as much less as it is shallower.
        decisions: what the iteration control has changed, and why.
    """

    def __init__(self, device: torch.device, ranks: Ranks, metric: Metric):
        self.running = RunningMean(device, metric)
        self.ranks = ranks
        self.timings = Timings(device)
        self.batches = 0
        self.work = 0.0
        self.decisions: list[Record] = []
        self._earlier: dict[str, float] = {}  # seconds before an interruption
        self._residuals: tuple[list[list[float]], list[list[float]]] = ([], [])
        self._unread: list[tuple[Solves, Solves]] = []  # on a GPU, reading a residual waits for it
        self._latest: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    def add_solves(self, forward: Solves, adjoint: Solves) -> None:
        """Count in the solves of one batch."""
        self._unread.append((forward, adjoint))

    def seconds(self) -> dict[str, float]:
        """Seconds of each part."""
        now = self.timings.seconds()
        return {part: self._earlier.get(part, 0.0) + now.get(part, 0.0) for part in {**self._earlier, **now}}

    def record(self) -> Record:
        """All of it as JSON's types. Raises `TrainingDivergedError` where loss or metric is not finite."""
        self._read()
        loss, figure = self.running.over(self.ranks).values()
        forward, adjoint = self._latest
        return {
            "train_loss": loss,
            f"train_{self.running.metric.key}": figure,
            "forward_residuals": mean_history(self._residuals[0]),
            "adjoint_residuals": mean_history(self._residuals[1]),
            **{f"forward_{name}": value for name, value in forward.items()},
            **{f"adjoint_{name}": value for name, value in adjoint.items()},
            "work_units": self.work,
            "decisions": self.decisions,
            "seconds": self.seconds(),
            **self.running.metric.to_record(),
        }

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        self._read()
        return {
            "running": self.running.over(self.ranks).state_dict(),
            "batches": self.batches,
            "work": self.work,
            "decisions": self.decisions,
            "seconds": self.seconds(),
            "residuals": list(self._residuals),
            "latest": list(self._latest),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        if self.ranks.grid.data_rank == 0:  # the sums of all data ranks, once
            self.running.load_state_dict(state["running"])
        self.batches, self.work, self.decisions = state["batches"], state["work"], list(state["decisions"])
        self._earlier = dict(state["seconds"])
        self._residuals = (list(state["residuals"][0]), list(state["residuals"][1]))
        self._latest = (state["latest"][0], state["latest"][1])

    def _read(self) -> None:
        for solves in self._unread:
            for histories, solve in zip(self._residuals, solves, strict=True):
                histories.append(solve.residual_norms)
        if self._unread:
            forward, adjoint = self._unread[-1]
            self._latest = (_counts(forward), _counts(adjoint))
        self._unread.clear()


def _counts(solves: Solves) -> dict[str, Any]:
    return {"evaluations": solves.evaluations, "depth": solves.sequential_depth}
