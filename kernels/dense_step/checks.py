"""What the functions of the dense ODE step demand of their arguments."""

from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.checks import check_sweep, check_tensors
from lpgpu.kernels.picard import check_order
from lpgpu.kernels.sweep import Sweep, Terms


def check_step(u: Tensor, w: Tensor, b: Tensor | None, activation: str, **others: Tensor | None) -> None:
    """That states, weights and biases go together; the `others` have the states' shape.

    Raises:
        ValueError: saying which do not, what came and what was expected.
    """
    if u.ndim != 3:
        raise ValueError(f"states have shape {tuple(u.shape)}; expected [layers, batch, width]")
    activation_named(activation)
    layers, _, width = state = tuple(u.shape)
    expected = {name: (t, state) for name, t in others.items()}
    check_tensors(u, w=(w, (layers, width, width)), b=(b, (layers, width)), **expected)


def check_march(u: Tensor, w: Tensor, b: Tensor | None, activation: str, sweep: Sweep, terms: Terms) -> None:
    """That the states of a window, the weights of its layers and the sweep's terms go together.

    Raises:
        ValueError: saying which do not, what came and what was expected.
    """
    check_sweep(u, sweep, terms)
    check_step(u[1:], w, b, activation)


def check_runs(u: Tensor, w: Tensor, b: Tensor | None, activation: str, order: int, **others: Tensor | None) -> None:
    """That states [K, B, H], and weights and biases of runs [K, S, ...], go together.

    Of the `others`, `saved` is [K, S, B, H] and the rest have the states' shape.

    Raises:
        ValueError: saying which do not, what came and what was expected.
    """
    if u.ndim != 3 or w.ndim != 4:
        shapes = f"{tuple(u.shape)} and {tuple(w.shape)}"
        raise ValueError(f"states and w have shapes {shapes}; expected [runs, batch, width] and [runs, layers, ...]")
    activation_named(activation)
    runs, batch, width = u.shape
    span = w.shape[1]
    check_order(order, span)
    saved = others.pop("saved", None)
    check_tensors(
        u, w=(w, (runs, span, width, width)), b=(b, (runs, span, width)), saved=(saved, (runs, span, batch, width)),
        **{name: (t, tuple(u.shape)) for name, t in others.items()},
    )  # fmt: skip
