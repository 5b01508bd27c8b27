"""Which iteration control a run's options name."""

from lpgpu import MGRIT, Serial
from lpgpu.train.methods.control import Adaptive, BiasBudget, Control, Fixed, Probing
from lpgpu.train.methods.tuned import Tuned
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.options import TrainOptions


def control_of(options: TrainOptions, solver: MGRIT | Serial) -> Control:
    """The rule that `options` name, starting from `solver`.

    Raises `InputError` for an adaptive rule without an iteration to adapt.
    """
    if options.solver == "auto":
        if options.control != "fixed":
            raise InputError(
                f"control is {options.control!r}, but --solver auto is a control of its own; expected fixed"
            )
        return Tuned(solver, every=options.probe_every, gradient_error=options.gradient_error)
    if options.control == "fixed":
        return Fixed(solver)
    if not isinstance(solver, MGRIT):
        raise InputError(f"control is {options.control!r}, but the solver is serial; use --solver mgrit")
    if options.control == "probe":
        return Probing(solver, every=options.probe_every)
    if options.control == "adaptive":
        return Adaptive(solver, every=options.probe_every, most=options.max_iterations, target=options.residual_target)
    return BiasBudget(solver, every=options.probe_every, most=options.max_iterations, bound=options.bias_bound)
