"""MG/OPT against its definition: the coarse gradient, the line search, momentum, and that it trains."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import nn

from lpgpu import LayerParallel, Serial
from lpgpu.nn import DenseBlock
from lpgpu.train import InputError, ODEOptions, find_recipe
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.methods.mgopt import MGOPT
from lpgpu.train.methods.transfer import coarse_layers

LAYERS = 8


def networks(levels: int) -> list[nn.Module]:
    made = []
    for level in range(levels):
        layers = coarse_layers(LAYERS, 2, level)
        deep = LayerParallel(None, lambda: DenseBlock(3, dtype=torch.float64), layers, 1.0, solver=Serial())
        made.append(nn.Sequential(nn.Linear(2, 3, dtype=torch.float64), deep))
    return made


def problem():
    inputs, targets = torch.randn(20, 2, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)

    def closure(network: nn.Module) -> torch.Tensor:
        network.zero_grad(set_to_none=True)
        loss = (network(inputs) - targets).square().mean()
        if torch.is_grad_enabled():
            loss.backward()
        return loss

    return closure


def sgd(groups) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9)


def adam(groups) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=0.01)


@pytest.mark.parametrize("transfer", ["constant", "linear"])
@torch.no_grad()
def test_coarse_gradient_is_the_restricted_fine_one_where_it_starts(transfer):
    closure = problem()
    mgopt = MGOPT(networks(3), sgd, transfer=transfer)
    value, gradient = mgopt._gradient(closure, 0, None)
    assert value > 0
    for level in (0, 1):
        _, v = mgopt.coarse_problem(closure, level, gradient)
        _, coarse = mgopt._gradient(closure, level + 1, v)
        for came, expected in zip(coarse, mgopt.transfers[level].restrict(gradient), strict=True):
            torch.testing.assert_close(came, expected)
        gradient = coarse


@torch.no_grad()
def test_coarse_objective_is_shifted_by_v():
    closure = problem()
    mgopt = MGOPT(networks(2), sgd)
    _, gradient = mgopt._gradient(closure, 0, None)
    value, v = mgopt.coarse_problem(closure, 0, gradient)
    weights = list(mgopt.networks[1].parameters())
    shift = sum((a * b).sum() for a, b in zip(v, weights, strict=True))
    torch.testing.assert_close(value, closure(mgopt.networks[1]) - shift)
    again, _ = mgopt._gradient(closure, 1, v)
    torch.testing.assert_close(value, again)


@pytest.mark.parametrize("smoother", [sgd, adam])
def test_every_accepted_correction_lowers_the_objective(smoother):
    closure = problem()
    nets = networks(3)
    mgopt = MGOPT(nets, smoother, before=0, after=0, coarsest=3)
    values = [float(mgopt.step(closure)) for _ in range(15)]
    # without smoothing on the finest level only corrections move it, and none may go up
    assert all(after <= before + 1e-12 for before, after in pairwise(values))
    assert values[-1] < 0.95 * values[0]


def test_a_direction_of_ascent_is_dropped():
    closure = problem()
    mgopt = MGOPT(networks(2), sgd)
    before = [theta.detach().clone() for theta in mgopt.networks[0].parameters()]
    with torch.no_grad():
        value, gradient = mgopt._gradient(closure, 0, None)
        assert mgopt._line_search(closure, 0, None, value, gradient, gradient) == 0.0
        far = [-1e6 * g for g in gradient]
        assert mgopt._line_search(closure, 0, None, value, gradient, far) == 0.0
        near = [-1e-3 * g for g in gradient]
        for theta, old in zip(mgopt.networks[0].parameters(), before, strict=True):
            assert torch.equal(theta, old)
        assert mgopt._line_search(closure, 0, None, value, gradient, near) == 1.0
    assert closure(mgopt.networks[0]) < value


def test_a_closure_that_goes_nowhere_back():
    mgopt = MGOPT(networks(2), sgd)
    with pytest.raises(RuntimeError, match=r"left no gradient in the network; it has to call backward\(\)"):
        mgopt.step(lambda network: network(torch.ones(1, 2, dtype=torch.float64)).sum())


def test_work_is_counted():
    mgopt = MGOPT(networks(3), sgd, before=1, after=2, coarsest=4)
    calls = {id(network): 0 for network in mgopt.networks}
    inner = problem()

    def closure(network: nn.Module) -> torch.Tensor:
        calls[id(network)] += 1
        return inner(network)

    mgopt.step(closure)
    assert [calls[id(net)] for net in mgopt.networks] == [
        g + v for g, v in zip(mgopt.gradients, mgopt.values, strict=True)
    ]
    # finest: to smooth, to restrict, twice after; in between: one more, for v; coarsest: for v, and 3 after the first
    assert mgopt.gradients == [4, 4, 4]


def test_momentum_goes_down_like_a_gradient():
    mgopt, closure = MGOPT(networks(2), sgd), problem()
    mgopt.step(closure)
    fine = mgopt._momentum(0)["momentum_buffer"]
    given = mgopt._restrict_momentum(0)["momentum_buffer"]
    expected = mgopt.transfers[0].restrict(fine)
    for came, buffer, value in zip(given, mgopt._momentum(1)["momentum_buffer"], expected, strict=True):
        torch.testing.assert_close(came, value)
        torch.testing.assert_close(buffer, value)


def test_step_sizes_of_coarse_layers_follow_the_scheduler():
    mgopt = MGOPT(networks(3), sgd)
    scheduler = torch.optim.lr_scheduler.StepLR(mgopt, step_size=1, gamma=0.5)
    closure = problem()
    mgopt.step(closure)
    scheduler.step()
    mgopt.step(closure)
    rates = [[group["lr"] for group in smoother.param_groups] for smoother in mgopt.smoothers]
    assert rates == [[0.025, 0.025], [0.0125, 0.025], [0.00625, 0.025]]


def test_state_comes_back():
    def steps(mgopt: MGOPT, count: int) -> None:
        for _ in range(count):
            mgopt.step(closure)

    closure = problem()
    whole = MGOPT(networks(2), adam)
    weights = {name: value.clone() for name, value in whole.networks[0].state_dict().items()}
    steps(whole, 4)
    first, second = MGOPT(networks(2), adam), MGOPT(networks(2), adam)
    first.networks[0].load_state_dict(weights)
    steps(first, 2)
    second.networks[0].load_state_dict(first.networks[0].state_dict())
    second.load_state_dict(first.state_dict())
    steps(second, 2)
    for came, expected in zip(second.networks[0].parameters(), whole.networks[0].parameters(), strict=True):
        assert torch.equal(came, expected)


@pytest.mark.parametrize("changes", [{"before": -1}, {"after": -1}, {"coarsest": 0}])
def test_bad_numbers_of_steps(changes):
    with pytest.raises(ValueError, match="expected two networks or more, before and after ≥ 0, and coarsest ≥ 1"):
        MGOPT(networks(2), sgd, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"transfer": "quadratic"}, ValueError, "transfer is 'quadratic'; expected 'constant' or 'linear'"),
        ({"coarsening": 1}, ValueError, "coarsening is 1; expected at least 2"),
        ({"coarsening": 2.0}, TypeError, "coarsening is 2.0; expected an integer ≥ 2"),
    ],
)
def test_bad_transfers(changes, error, message: str):
    with pytest.raises(error, match=message):
        MGOPT(networks(2), sgd, **changes)


def test_networks_without_layers():
    with pytest.raises(ValueError, match="the networks have no LayerParallel"):
        MGOPT([nn.Linear(2, 3), nn.Linear(2, 3)], sgd)


def peaks_options(**changes) -> ODEOptions:
    small = {"layers": 8, "channels": 4, "levels": 2, "batch_size": 5000, "device": "cpu", "solver": "serial"}
    return dataclasses.replace(find_recipe("peaks").defaults, **{**small, **changes})


def test_trainer_counts_work_in_gradients_of_the_finest_network():
    trainer = Trainer(find_recipe("peaks"), peaks_options(mgopt=1, mgopt_steps=(1, 0, 2)))
    record = trainer.run_epoch(lambda _: None)
    assert trainer.mgopt is not None
    assert trainer.mgopt.gradients == [2, 2]
    assert record["work_units"] == 2 + 0.5 * trainer.mgopt.values[0] + 0.5 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mgopt": 1, "optimizer": "lbfgs"}, "with mgopt expected adam, adamw or sgd"),
        ({"mgopt": 1, "clip": 1.0}, "would bend the coarse objectives"),
        ({"mgopt_steps": (1, 1)}, "expected three integers"),
        ({"nested_epochs": 0}, "nested_epochs is 0"),
        ({"optimizer": "lbfgs", "clip": 1.0}, "would mislead the line search"),
    ],
)
def test_options_that_exclude_each_other(changes, message):
    with pytest.raises(InputError, match=message):
        peaks_options(**changes)


def test_more_levels_than_layers():
    with pytest.raises(InputError, match="mgopt is 3, but level 3 would have 1 layer"):
        Trainer(find_recipe("peaks"), peaks_options(mgopt=3))
