"""Checks of what a caller hands in: shapes, dtypes and devices, without looking at any element."""

from torch import Tensor

from lpgpu.kernels.sweep import Sweep, Terms


def check_tensors(like: Tensor, **expected: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """That each named tensor, where there is one, has its shape, and dtype and device of `like`.

    Raises:
        ValueError: saying which has not, what came and what was expected.
    """
    dtype, device = like.dtype, like.device
    if not dtype.is_floating_point:
        raise ValueError(f"states are {dtype}; expected a floating-point dtype")
    for name, (t, shape) in expected.items():
        if t is None or (t.shape == shape and t.dtype == dtype and t.device == device):
            continue
        if t.shape != shape:
            raise ValueError(f"{name} has shape {tuple(t.shape)}; expected {tuple(shape)}")
        raise ValueError(f"{name} is {t.dtype} on {t.device}; expected {dtype} on {device}")


def check_sweep(u: Tensor, sweep: Sweep, terms: Terms) -> None:
    """That the states and the terms of a sweep have their shapes (`kernels.sweep`).

    Raises:
        ValueError: saying which has not, what came and what was expected.
    """
    state = tuple(u.shape[1:])
    points, layers = (sweep.num_layers + 1, *state), (sweep.num_layers, *state)
    g, delta, anchors, products = terms.tensors()
    intervals = max(sweep.num_intervals, 0 if products is None else len(products))
    check_tensors(
        u, u=(u, points), g=(g, points), delta=(delta, layers), anchors=(anchors, layers),
        products=(products, (intervals, *state)),
    )  # fmt: skip
    if (delta is None) != (anchors is None):
        raise ValueError("delta and anchors come together or not at all")
