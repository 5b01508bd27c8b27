"""What the functions of the convolutional ODE step demand of their arguments."""

from torch import Tensor

from lpgpu.kernels.activations import activation_named
from lpgpu.kernels.checks import check_sweep, check_tensors
from lpgpu.kernels.conv_step.layers import Filter, Saved
from lpgpu.kernels.picard import check_order
from lpgpu.kernels.sweep import Sweep, Terms


def check_step(u: Tensor, filters: list[Filter], activation: str, **others: Tensor | None) -> None:
    """That states and filters go together; the `others` have the states' shape.

    Raises:
        ValueError: saying which do not, what came and what was expected.
    """
    _check_filters(u, filters, len(u), activation)
    check_tensors(u, **{name: (t, tuple(u.shape)) for name, t in others.items()})


def check_march(u: Tensor, filters: list[Filter], activation: str, sweep: Sweep, terms: Terms) -> None:
    """That the states of a window, the filters of its layers and the sweep's terms go together.

    Raises:
        ValueError: saying which do not, what came and what was expected.
    """
    check_sweep(u, sweep, terms)
    _check_filters(u, filters, sweep.num_layers, activation)
    if terms.products is not None:
        raise ValueError("products came; expected none, as a convolution has no formula for its Jacobian's diagonal")


def check_runs(
    u: Tensor, filters: list[Filter], activation: str, order: int, saved: Saved | None = None, out: Tensor | None = None
) -> None:
    """That states [K, ...], the filters of runs [K, S, ...] and what is saved of them go together.

    Raises:
        ValueError: saying which do not, what came and what was expected.
    """
    if not filters or filters[0].w.ndim != 6:
        raise ValueError("the filters' weights are not those of runs of layers; expected [runs, layers, C, C, 3, 3]")
    span = filters[0].w.shape[1]
    check_order(order, span)
    for w, b in filters:
        check_tensors(u, b=(b, (*w.shape[:2], u.shape[2])))
    _check_filters(u, [Filter(w[:, 0], None) for w, _ in filters], len(u), activation)
    check_tensors(u, out=(out, tuple(u.shape)))
    if saved is not None:
        check_saved(saved, filters)
        shape = (len(u), span, *u.shape[1:])
        check_tensors(u, **{f"saved of convolution {i}": (t, shape) for i, t in enumerate(saved.stacked())})


def check_saved(saved: Saved, filters: list[Filter]) -> None:
    """That something was saved of every convolution and layer.

    Raises:
        ValueError: saying what came and what was expected.
    """
    came, expected = (len(saved.by_convolution), len(saved)), (len(filters), len(filters[0].w))
    if came != expected:
        raise ValueError(
            f"saved is of {came[0]} convolutions × {came[1]} layers; expected {expected[0]} × {expected[1]}"
        )


def _check_filters(u: Tensor, filters: list[Filter], layers: int, activation: str) -> None:
    activation_named(activation)
    if u.ndim != 5:
        raise ValueError(f"states have shape {tuple(u.shape)}; expected [layers, images, channels, rows, columns]")
    if not filters:
        raise ValueError("there are no filters; expected one for each convolution of a step")
    channels = u.shape[2]
    for w, b in filters:
        check_tensors(u, w=(w, (layers, channels, channels, 3, 3)), b=(b, (layers, channels)))
