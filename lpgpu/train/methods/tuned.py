"""The solver of training, tuned at the start and again whenever its gradients have come to be too far off."""

from typing import Any

from lpgpu import MGRIT, Serial
from lpgpu.nn.tune import shown
from lpgpu.train.methods.control import Control, Moment
from lpgpu.train.runs.metrics import Record


class Tuned(Control):
    """Before the first step, and where a probe every `every` steps finds ‖g̃ − ∇F‖ > ε ‖∇F‖, `lpgpu.tune` chooses.

    A probe takes the step's own batch, and costs a gradient by the solver and an exact one. Where nothing within ε is
    cheaper than exact propagation, that is chosen, and tuned again at every probe: training may have changed it.
    """

    kept = ("found",)

    def __init__(self, solver: MGRIT | Serial, *, every: int, gradient_error: float):
        super().__init__(solver)
        self.every, self.gradient_error = every, gradient_error
        self.found: dict[str, Any] | None = None  # as JSON: a checkpoint holds no classes

    @property
    def solver(self) -> MGRIT | Serial:
        """What was found; before that, what the options say."""
        if self.found is None:
            return self.start
        return MGRIT(**self.found) if self.found else Serial()

    def before_step(self, moment: Moment) -> Record | None:
        if moment.step % self.every:
            return None
        error = None
        if self.found:
            error = moment.gradient_error(self.solver)
            if error <= self.gradient_error:
                return {"step": moment.step, "gradient_error": error, "solver": shown(self.solver)}
        chosen = moment.tune()
        self.found = {} if isinstance(chosen, Serial) else vars(chosen).copy()
        missed = {} if error is None else {"gradient_error_before": error}
        return {"step": moment.step, **missed, "solver": shown(self.solver)}
