"""Checks of what a caller hands in: shapes, dtypes and devices, without looking at any element."""

from torch import Tensor


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


def check_sweep(u: Tensor, layers: int, intervals: int, **corrections: Tensor | None) -> None:
    """That the states and corrections of a sweep over this many layers have their shapes (`kernels.sweep`).

    Raises:
        ValueError: saying which has not, what came and what was expected.
    """
    state = tuple(u.shape[1:])
    points, of_layers = (layers + 1, *state), (layers, *state)
    expected = {"g": points, "delta": of_layers, "anchors": of_layers, "kept": of_layers}
    check_tensors(u, u=(u, points), **{n: (t, expected[n]) for n, t in corrections.items() if n in expected})
    if (corrections.get("delta") is None) != (corrections.get("anchors") is None):
        raise ValueError("delta and anchors come together or not at all")
    products = corrections.get("products")
    if products is not None:
        check_tensors(u, products=(products, (max(len(products), intervals), *state)))
