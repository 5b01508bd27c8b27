"""Dropout and other draws inside a block: drawn once a call for each layer, whoever asks for them and how often."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel, Recurrent, Serial
from lpgpu.nn.frozen_draws import Draws, FrozenDraws
from tests.assertions import assert_close_relative, assert_mentions, relative_error
from tests.nn.networks import WIDTH, exactly, inputs, network

N = 9
SOLVERS = {
    "all states": exactly(N),
    "C-points": exactly(N, store="c_points", chunk=2),
    "F-relaxation on three levels, F-cycles": MGRIT(
        levels=3, coarsening=2, relaxation="F", cycle="F", iterations=5, adjoint_iterations=5
    ),
    "Picard": exactly(N, coarse_operator="picard"),
    "linear": MGRIT(levels=2, coarsening=3, coarse_operator="linear", iterations=3, adjoint_iterations=3),
    "serial": Serial(),
}


class Noisy(nn.Module):
    """A right-hand side with several draws of several kinds, one of them of a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop, self.drop2d = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.3), nn.Dropout1d(0.5)

    def forward(self, u: Tensor) -> Tensor:
        y = self.drop(torch.tanh(self.linear(self.drop(u))))
        y = self.drop2d(y[:, None])[:, 0] + 0.1 * torch.randn_like(u)
        return y * torch.rand(WIDTH, dtype=u.dtype)


class DropPath(nn.Module):
    """form="residual": stochastic depth, as timm writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        kept = u.new_empty(len(u), 1).bernoulli_(0.6)
        return u + 0.2 * torch.tanh(self.linear(u)) * kept / 0.6


class Heads(nn.Module):
    """form="residual" on [batch, tokens, WIDTH]: PyTorch's attention with dropout of its scores."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.3 * self.attention(u, u, u, need_weights=self.need_weights)[0]


BLOCKS: dict[str, tuple[Callable[[], nn.Module], Any, tuple[int, ...]]] = {
    "several draws": (Noisy, "rhs", (3, WIDTH)),
    "drop path": (DropPath, "residual", (5, WIDTH)),
    "attention": (lambda: Heads(False), "residual", (2, 3, WIDTH)),
    "attention with weights": (lambda: Heads(True), "residual", (2, 3, WIDTH)),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(WIDTH, 2, 6, 0.2, batch_first=True, norm_first=True),
        "residual",
        (2, 3, WIDTH),
    ),
}


def oracle(net: LayerParallel, x: Tensor, seed: int) -> Tensor:
    """Layer after layer, each with the draws of its index in a call with this seed."""
    u = x
    for k, step in enumerate(net.to_sequential()):
        with FrozenDraws(Draws(seed), torch.tensor([k])):
            u = torch.vmap(step, randomness="different")(u[None])[0]
    return u


def seed_of_the_next_call() -> int:
    state = torch.get_rng_state()
    seed = int(torch.randint(2**62, ()))
    torch.set_rng_state(state)
    return seed


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_draws_are_the_same_in_every_sweep_and_in_the_adjoint(block: str, solver: Any) -> None:
    """Else neither output nor gradients would be those of one network."""
    build, form, shape = BLOCKS[block]
    net = network(build, N, form=form, Tf=N if form == "residual" else 1.0, solver=solver)
    x, weight = inputs(*shape, requires_grad=True), inputs(*shape)
    seed = seed_of_the_next_call()
    y, expected = net(x), oracle(net, x, seed)
    assert_close_relative(y, expected)
    (dx,) = torch.autograd.grad(y, x, weight, retain_graph=True)
    assert_close_relative(dx, torch.autograd.grad(expected, x, weight)[0])


def test_eval_mode_drops_nothing_out() -> None:
    net, x = network(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout()), N, solver=exactly(N)), inputs()
    assert relative_error(net(x), net.eval()(x)) > 1e-3
    assert_close_relative(net(x), net.to_sequential()(x))


def test_parameter_gradients_see_the_same_draws() -> None:
    """By central differences with the same seed."""
    net, x = network(Noisy, N, solver=exactly(N, store="c_points")), inputs()
    state = torch.get_rng_state()

    def loss() -> Tensor:
        torch.set_rng_state(state)
        return net(x).square().sum()

    weight = net.layers.linear.weight  # pyright: ignore
    (gradient,) = torch.autograd.grad(loss(), weight)  # pyright: ignore
    direction = torch.randn_like(gradient)
    with torch.no_grad():
        weight += 1e-6 * direction  # pyright: ignore
        up = loss()
        weight -= 2e-6 * direction  # pyright: ignore
        difference = (up - loss()) / 2e-6
    assert_close_relative((gradient * direction).sum(), difference, tolerance=1e-6)


def test_calls_layers_and_draws_differ() -> None:
    """Each call is drawn anew; within one, no two layers and no two draws are alike."""

    class Ones(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return torch.stack([torch.rand(5), torch.rand(5)])[None].expand_as(u)

    net = LayerParallel(None, Ones, 4, 4.0, form="residual", solver=Serial())
    draws = []
    for _ in range(2):
        x = torch.zeros(1, 2, 5)
        draws += [net(x)]
    a, b = draws
    assert not torch.equal(a, b) and not torch.equal(a[0, 0], a[0, 1])
    layers = torch.arange(6)
    with FrozenDraws(Draws(3), layers) as mode:
        first, second = mode.fractions((6, 1000), torch.float64), mode.fractions((6, 1000), torch.float64)
    together = torch.cat([first, second])
    assert torch.corrcoef(together).fill_diagonal_(0).abs().max() < 0.2
    assert len(together.unique()) == together.numel()


class TestGenerator:
    def test_advances_by_one_number_a_call_with_draws(self) -> None:
        net, x = network(Noisy, N), inputs()
        torch.manual_seed(3)
        net(x).sum().backward()
        after = torch.rand(3)
        torch.manual_seed(3)
        torch.randint(2**62, ())
        assert torch.equal(after, torch.rand(3))

    @pytest.mark.parametrize("block", [lambda: nn.Dropout(), lambda: nn.Linear(WIDTH, WIDTH)])
    def test_stays_where_nothing_is_drawn(self, block: Any) -> None:
        net, x = network(block, N).eval(), inputs(requires_grad=True)
        before = torch.get_rng_state()
        net(x).sum().backward()
        assert torch.equal(before, torch.get_rng_state())

    def test_the_same_seed_gives_the_same_call(self) -> None:
        net, x = network(Noisy, N), inputs()
        torch.manual_seed(4)
        first = net(x)
        assert not torch.equal(net(x), first)
        torch.manual_seed(4)
        assert torch.equal(net(x), first)


def test_a_recurrent_cell_may_drop_out() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.drop = nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(0.3)

        def initial_state(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(self.w(torch.cat([self.drop(x), self.drop(h)], -1)))

    cell, x = Dropping().double(), inputs(N, 3, WIDTH, requires_grad=True)
    seed, states = seed_of_the_next_call(), [torch.zeros(3, WIDTH, dtype=torch.float64)]
    y, _ = Recurrent(cell, solver=exactly(N, store="c_points"))(x)
    for k in range(N):
        with FrozenDraws(Draws(seed), torch.tensor([k])):
            states.append(torch.vmap(cell, randomness="different")(x[k][None], states[-1][None])[0])
    expected, weight = torch.stack(states[1:]), inputs(N, 3, WIDTH)
    assert_close_relative(y, expected)
    assert_close_relative(torch.autograd.grad(y, x, weight)[0], torch.autograd.grad(expected, x, weight)[0])


MOMENTS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "dropout": (lambda x: nn.functional.dropout(torch.ones_like(x), 0.3), 1.0, 0.3 / 0.7),
    "rand": (lambda x: torch.rand(x.shape, dtype=x.dtype), 1 / 2, 1 / 12),
    "rand_like": (torch.rand_like, 1 / 2, 1 / 12),
    "uniform_": (lambda x: torch.empty_like(x).uniform_(-1, 3), 1.0, 16 / 12),
    "randn": (lambda x: torch.randn(x.shape, dtype=x.dtype), 0.0, 1.0),
    "randn_like": (torch.randn_like, 0.0, 1.0),
    "normal_": (lambda x: torch.empty_like(x).normal_(2, 3), 2.0, 9.0),
    "normal of numbers": (lambda x: torch.normal(2.0, 3.0, x.shape, dtype=x.dtype), 2.0, 9.0),
    "normal of tensors": (lambda x: torch.normal(torch.ones_like(x), 2.0), 1.0, 4.0),
    "exponential_": (lambda x: torch.empty_like(x).exponential_(2.0), 1 / 2, 1 / 4),
    "bernoulli": (lambda x: torch.bernoulli(torch.full_like(x, 0.2)), 0.2, 0.16),
    "bernoulli_": (lambda x: torch.empty_like(x).bernoulli_(0.2), 0.2, 0.16),
    "bernoulli_ of probabilities": (lambda x: torch.empty_like(x).bernoulli_(torch.full_like(x, 0.2)), 0.2, 0.16),
    "randint": (lambda x: torch.randint(0, 5, x.shape).to(x.dtype), 2.0, 2.0),
    "randint from": (lambda x: torch.randint(3, 5, x.shape).to(x.dtype), 3.5, 0.25),
    "native_dropout": (lambda x: torch.native_dropout(torch.ones_like(x), 0.3, True)[0], 1.0, 0.3 / 0.7),
}
"""Operation → mean, variance."""


@pytest.mark.parametrize("operation", MOMENTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_each_operation_has_its_distribution_and_depends_on_the_layer_alone(operation: str, dtype: Any) -> None:
    f, mean, variance = MOMENTS[operation]
    layers, x = torch.arange(4), torch.zeros(4, 20000, dtype=dtype)

    def drawn(part: slice) -> Tensor:
        with FrozenDraws(Draws(11), layers[part]):
            return torch.vmap(f, randomness="different")(x[part])

    y = drawn(slice(None))
    assert torch.equal(y[1::2], drawn(slice(1, None, 2))) and y.dtype == dtype
    spread = (variance / 20000) ** 0.5
    for of_layer in y.double():
        assert abs(float(of_layer.mean()) - mean) < 5 * spread + 4e-3 * (1 + abs(mean))
        assert float(of_layer.var()) == pytest.approx(variance, rel=0.08)


def test_the_limits_of_dropout() -> None:
    for p, expected in ((0.0, 1.0), (1.0, 0.0)):
        with FrozenDraws(Draws(1), torch.arange(2)):
            y = torch.vmap(lambda x: torch.native_dropout(x, p, True)[0], randomness="different")(torch.ones(2, 50))  # noqa: B023
        assert torch.equal(y, torch.full((2, 50), expected))


class TestRefusals:
    @pytest.mark.parametrize(
        ("draw", "words"),
        [
            (lambda u: u[:, torch.randperm(WIDTH)], ["randperm", "cannot be frozen", "eval mode"]),
            (lambda u: u * torch.rand(1, generator=torch.Generator()), ["rand"]),
            (lambda u: u * random.random(), ["Python's random", "torch"]),
            (lambda u: u * np.random.rand(), ["numpy", "torch"]),
            (lambda u: u * torch.empty(WIDTH, dtype=u.dtype).normal_(), ["torch.randn_like(u)"]),
        ],
        ids=["permutation", "a generator of its own", "Python's", "numpy's", "a tensor that is no state's"],
    )
    def test_what_cannot_be_frozen(self, draw: Any, words: list[str]) -> None:
        class Draw(nn.Module):
            def forward(self, u: Tensor) -> Tensor:
                return draw(u)

        with pytest.raises(RuntimeError) as caught:
            network(Draw)(inputs())
        assert_mentions(caught.value, words)

    def test_dropout_in_a_fused_attention_names_the_switch(self) -> None:
        """Which only a GPU has: asked for by its name."""
        attend = torch.ops.aten._scaled_dot_product_efficient_attention
        q = torch.randn(2, 2, 3, 4)
        with FrozenDraws(Draws(1), torch.arange(2)), pytest.raises(RuntimeError, match="enable_flash_sdp"):
            attend(q, q, q, None, False, 0.5)
