"""The geometry of a sweep, and the plain march, against layers visited one by one."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lpgpu.kernels.sweep import Sweep, Terms, march
from tests.assertions import assert_close_relative
from tests.settings import seeds


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    interval = draw(st.integers(2, 6))
    steps = draw(st.integers(1, interval - 1))
    if draw(st.booleans()):  # one interval only, from end to end
        return Sweep(
            interval, *draw(st.sampled_from([(0, interval, interval), (interval - 1, interval, interval, True)]))
        )
    reverse = draw(st.booleans())
    if reverse:
        first = draw(st.integers(steps - 1, interval - 1))
        num_layers = draw(st.integers(1, 4)) * interval
    else:
        first = draw(st.integers(0, interval - steps))
        num_layers = draw(st.integers(first + 1, 4 * interval + 1))
    return Sweep(num_layers, first, interval, steps, reverse)


@given(sweep=sweeps(), options=st.sets(st.sampled_from(["g", "delta", "products"])), seed=seeds)
def test_a_march_is_its_layers_one_by_one(sweep: Sweep, options: set[str], seed: int) -> None:
    torch.manual_seed(seed)
    points, layers = sweep.num_layers + 1, sweep.num_layers
    u, a = torch.randn(points, 2, dtype=torch.float64), torch.randn(layers, 2, dtype=torch.float64)
    g = torch.randn_like(u) if "g" in options else None
    delta, anchors = (torch.randn_like(a), torch.randn_like(a)) if "delta" in options else (None, None)
    products = torch.full((sweep.num_intervals, 2), torch.nan, dtype=torch.float64) if "products" in options else None

    def step(at: slice, source: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        out.copy_(a[at] * source)
        if diagonal is not None:
            diagonal.copy_(a[at])

    came, expected, expected_products = u.clone(), u.clone(), torch.ones(sweep.num_intervals, 2, dtype=torch.float64)
    march(sweep, step, came, Terms(g, delta, anchors, products))
    for i in range(sweep.num_intervals):
        for j in range(sweep.steps):
            k = sweep.first + i * sweep.interval + sweep.direction * j
            if k < layers:
                source, target = (k + 1, k) if sweep.reverse else (k, k + 1)
                value = a[k] * expected[source]
                if delta is not None and anchors is not None:
                    value = value + delta[k] * (expected[source] - anchors[k])
                expected[target] = value + (0 if g is None else g[target])
                expected_products[i] *= a[k] + (0 if delta is None else delta[k])
    assert_close_relative(came, expected)
    if products is not None:
        assert_close_relative(products, expected_products)


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ((4, 0, 2, 0), "leaves its window"),
        ((4, 4, 2, 1), "leaves its window; expected steps within layers 0 … 3"),
        ((4, 1, 2, 3, True), "leaves its window"),
        ((4, 0, 2, 2), "writes the states that other intervals start from"),
        ((7, 3, 4, 2, True), "meets a short interval in reverse"),
    ],
)
def test_sweeps_that_cannot_be_are_refused(sweep: tuple, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Sweep(*sweep)
