"""Nonlinearities: by their formula, with the slope of their formula, and the same as modules."""

import pytest
import torch

from lpgpu.kernels.activations import ACTIVATIONS, activation_named
from lpgpu.nn import Activate
from tests.assertions import assert_close_relative
from tests.kernels.steps import ACTIVATIONS as FORMULAS
from tests.kernels.steps import ETA, every_third

SHAPES = [(7,), (3, 5), (2, 3, 4, 5)]


def test_all_have_a_formula_here() -> None:
    assert ACTIVATIONS.keys() == FORMULAS.keys()


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
class TestFormula:
    def test_value_overwrites(self, name: str, shape: tuple[int, ...], scale: float) -> None:
        z = every_third(scale * torch.randn(shape, dtype=torch.float64))
        expected = FORMULAS[name](z.clone())
        assert activation_named(name).value_(z) is z
        assert_close_relative(z, expected)

    def test_pull_back_is_the_slope_times(self, name: str, shape: tuple[int, ...], scale: float) -> None:
        g = activation_named(name)
        z = scale * torch.randn(shape, dtype=torch.float64)
        d = torch.randn_like(z)
        leaf = z.clone().requires_grad_()
        (expected,) = torch.autograd.grad(FORMULAS[name](leaf), leaf, d)
        value, saved = g.value_and_saved(z.clone())
        before = d.clone()
        assert (g.pull_back(d, saved) - expected).abs().max() <= 1e-12 * d.abs().max()
        assert torch.equal(d, before)
        assert_close_relative(value, FORMULAS[name](z))
        assert_close_relative(g.value_of_saved(saved), FORMULAS[name](z))

    def test_module_is_the_same(self, name: str, shape: tuple[int, ...], scale: float) -> None:
        z = scale * torch.randn(shape, dtype=torch.float64)
        before = z.clone()
        assert_close_relative(Activate(name)(z), FORMULAS[name](z))
        assert torch.equal(z, before)


@pytest.mark.parametrize("name", FORMULAS)
def test_reading_what_was_saved_leaves_it_alone(name: str) -> None:
    g = activation_named(name)
    _, saved = g.value_and_saved(torch.randn(5, dtype=torch.float64))
    before = saved.clone()
    g.value_of_saved(saved)
    g.pull_back(torch.randn(5, dtype=torch.float64), saved)
    assert torch.equal(saved, before)


def test_smooth_relu_joins_its_pieces() -> None:
    """Value and slope at ±η and at the middle."""
    z = torch.tensor([-1.0, -ETA, 0.0, ETA, 1.0], dtype=torch.float64)
    g = activation_named("smooth_relu")
    value, saved = g.value_and_saved(z.clone())
    assert value.tolist() == pytest.approx([0, 0, ETA / 4, ETA, 1])
    assert g.pull_back(torch.ones_like(z), saved).tolist() == pytest.approx([0, 0, 1 / 2, 1, 1])


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'gelu'; expected one of identity, relu, silu, smooth_relu, tanh"):
        activation_named("gelu")
