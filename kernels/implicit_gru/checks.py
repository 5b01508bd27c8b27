"""What the functions of the GRU step demand of their arguments."""

from torch import Tensor

from lpgpu.kernels.checks import check_sweep, check_tensors
from lpgpu.kernels.implicit_gru.reference import FORMULATIONS, Cell, Coefficients
from lpgpu.kernels.picard import check_order
from lpgpu.kernels.sweep import Sweep, Terms


def check_march(u: Tensor, w: Tensor, sweep: Sweep, terms: Terms) -> None:
    """That the states of a window, W and the sweep's terms go together.

    Raises:
        ValueError: saying which do not, what came and what was expected.
    """
    _check_states(u)
    check_sweep(u, sweep, terms)
    check_weights(u, w)


def check_cell(like: Tensor, x: Tensor, cell: Cell, **states: Tensor | None) -> None:
    """That the cell, the inputs' products x [K, B, 3H] and any `states` [K, B, H] of as many steps go together.

    Raises:
        ValueError: saying which do not, what came and what was expected.
    """
    if cell.formulation not in FORMULATIONS:
        raise ValueError(f"formulation is {cell.formulation!r}; expected one of {', '.join(FORMULATIONS)}")
    _check_states(like)
    batch, width = like.shape[1:]
    steps = next((len(t) for t in states.values() if t is not None), len(x))
    expected = {name: (t, (steps, batch, width)) for name, t in states.items()}
    check_tensors(
        like, x=(x, (steps, batch, 3 * width)), w=(cell.w, (3 * width, width)), b=(cell.b, (3 * width,)), **expected
    )


def check_runs(like: Tensor, order: int, w: Tensor, x: Tensor | None = None, at: Coefficients | None = None) -> None:
    """That x [K, S, B, 3H] or the coefficients [K, S, ...] are of the runs that states `like` [K, B, H] start.

    Raises:
        ValueError: saying what does not go together, what came and what was expected.
    """
    _check_states(like)
    check_weights(like, w)
    per_step = x if at is None else at.a
    if per_step is None or per_step.ndim != 4:
        raise ValueError(f"the runs' steps have shape {tuple(per_step.shape)}; expected [runs, steps, ...]")  # pyright: ignore
    check_order(order, per_step.shape[1])
    state = (len(like), per_step.shape[1], *like.shape[1:])
    gates = (*state[:3], 3 * like.shape[-1])
    if at is None:
        check_tensors(like, x=(x, gates))
    else:
        check_tensors(like, a=(at.a, state), c=(at.c, gates), c_n=(at.c_n, state))


def check_coefficients(like: Tensor, at: Coefficients, steps: int) -> None:
    """That the coefficients are of so many steps of states like `like`.

    Raises:
        ValueError: saying which are not, what came and what was expected.
    """
    _check_states(like)
    shape = (steps, *like.shape[1:])
    check_tensors(like, a=(at.a, shape), c=(at.c, (*shape[:2], 3 * like.shape[-1])), c_n=(at.c_n, shape))


def check_weights(like: Tensor, w: Tensor) -> None:
    """That W is [3H, H].

    Raises:
        ValueError: saying what came and what was expected.
    """
    check_tensors(like, w=(w, (3 * like.shape[-1], like.shape[-1])))


def _check_states(states: Tensor) -> None:
    if states.ndim != 3:
        raise ValueError(f"states have shape {tuple(states.shape)}; expected [layers, batch, width]")
