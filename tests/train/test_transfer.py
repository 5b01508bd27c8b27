"""Prolongation and restriction against their definitions, on matrices and on networks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpgpu import LayerParallel, Serial
from lpgpu.nn import DenseBlock
from lpgpu.train.methods.transfer import Transfer, coarse_layers, prolongation


def network(layers: int, width: int = 3) -> torch.nn.Module:
    deep = LayerParallel(None, lambda: DenseBlock(width, dtype=torch.float64), layers, 1.0, solver=Serial())
    return torch.nn.Sequential(torch.nn.Linear(2, width, dtype=torch.float64), deep)


def dot(left, right) -> torch.Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()


@given(layers=st.integers(1, 40), m=st.integers(2, 6), kind=st.sampled_from(["constant", "linear"]))
def test_prolongation_matrix(layers: int, m: int, kind):
    p = prolongation(layers, m, kind)
    coarse = coarse_layers(layers, m)
    assert p.shape == (layers, coarse) and coarse == -(-layers // m)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(1), torch.ones(layers, dtype=torch.float64))
    assert torch.equal(p[::m], torch.eye(coarse, dtype=torch.float64))  # injection undoes it
    for i in range(layers):
        left, right = i // m, min(i // m + 1, coarse - 1)
        t = torch.linspace(0, 1, coarse, dtype=torch.float64)
        expected = t[left] if kind == "constant" else t[left] + (i % m) / m * (t[right] - t[left])
        torch.testing.assert_close((p @ t)[i], expected)


@pytest.mark.parametrize("kind", ["constant", "linear"])
@pytest.mark.parametrize(("layers", "m"), [(8, 2), (7, 3), (9, 4)])
def test_restriction_of_gradients_is_adjoint_to_prolongation(layers: int, m: int, kind):
    fine, coarse = network(layers), network(coarse_layers(layers, m))
    transfer = Transfer(fine, coarse, m, kind)
    x = [torch.randn_like(theta) for theta in coarse.parameters()]
    g = [torch.randn_like(theta) for theta in fine.parameters()]
    torch.testing.assert_close(dot(transfer.prolong(x), g), dot(x, transfer.restrict(g)))
    for injected, value in zip(transfer.inject(transfer.prolong(x)), x, strict=True):
        torch.testing.assert_close(injected, value)
    assert transfer.ratio == pytest.approx(coarse_layers(layers, m) / layers)
    assert transfer.stacked == [False, False, True, True]


def test_restricted_gradient_is_that_of_the_prolonged_network():
    """Pᵀ∇f(P x) = ∇(f ∘ P)(x), by central differences in a random direction."""
    fine, coarse = network(6), network(3)
    transfer = Transfer(fine, coarse, 2, "linear")
    inputs = torch.randn(4, 2, dtype=torch.float64)

    def at(values) -> torch.Tensor:
        with torch.no_grad():
            for theta, value in zip(fine.parameters(), transfer.prolong(values), strict=True):
                theta.copy_(value)
        return fine(inputs).square().sum()

    x = [theta.detach() for theta in coarse.parameters()]
    d = [torch.randn_like(value) for value in x]
    gradient = torch.autograd.grad(at(x), list(fine.parameters()))
    h = 1e-6
    up, down = (at([a + sign * h * b for a, b in zip(x, d, strict=True)]).detach() for sign in (1, -1))
    torch.testing.assert_close(dot(transfer.restrict(gradient), d), (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("coarsening", "error"), [(1, ValueError), (0, ValueError), (True, TypeError), (2.0, TypeError), ("2", TypeError)]
)
def test_bad_coarsenings(coarsening, error):
    for call in (
        lambda: prolongation(8, coarsening, "constant"),
        lambda: Transfer(network(8), network(8), coarsening),
    ):
        with pytest.raises(error, match=r"coarsening is .*; expected"):
            call()


@pytest.mark.parametrize("kind", ["quadratic", "const", None, 1, ["linear"]])
def test_unknown_kinds(kind):
    for call in (lambda: prolongation(8, 2, kind), lambda: Transfer(network(8), network(4), 2, kind)):
        with pytest.raises(ValueError, match=r"kind is .*; expected 'constant' or 'linear'"):
            call()


def test_networks_without_layers():
    with pytest.raises(ValueError, match="the networks have no LayerParallel"):
        Transfer(torch.nn.Linear(2, 3), torch.nn.Linear(2, 3), 2)


def test_networks_that_do_not_follow_each_other():
    for other in (network(3), network(4, width=2), torch.nn.Linear(2, 3)):
        with pytest.raises(ValueError, match="the coarse network is not the fine one with every 2-th of its layers"):
            Transfer(network(8), other, 2)
