"""Nested iteration: levels, prolonged weights and moments, work, and runs that are interrupted in it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lpgpu import LayerParallel, Serial
from lpgpu.nn import DenseBlock
from lpgpu.train import ODEOptions, Run, find_recipe, train
from lpgpu.train.loop.levels import deepest_level, options_of_level, refined, trainer_of_level
from lpgpu.train.methods.nested import prolong_
from lpgpu.train.methods.transfer import prolongation
from lpgpu.train.runs.metrics import read_records
from tests.train.helpers import InterruptAtStep, network_of, tiny_run, without_seconds

RECIPE = find_recipe("peaks")


def options(**changes) -> ODEOptions:
    small = {
        "epochs": 2,
        "layers": 9,
        "channels": 3,
        "levels": 2,
        "device": "cpu",
        "nested": 2,
        "nested_epochs": (3, 2),
    }
    return dataclasses.replace(RECIPE.defaults, **{**small, **changes})


def test_levels():
    nested = options(layers=30, nested=64, nested_epochs=(40, 20))
    assert deepest_level(nested) == 4
    levels = [options_of_level(nested, level) for level in range(4, -1, -1)]
    assert [each.layers for each in levels] == [2, 4, 8, 15, 30]
    assert [each.epochs for each in levels] == [40, 20, 20, 20, 2]
    assert isinstance(levels[0].layer_solver(), Serial)
    assert [each.solver for each in levels[1:]] == ["mgrit"] * 4
    both = options_of_level(options(mgopt=1, nested=1), 1)
    assert isinstance(both, ODEOptions) and both.mgopt == 0  # a coarser network has none below it to correct it
    assert deepest_level(options(nested=0)) == 0 == deepest_level(find_recipe("seq-digits").defaults)


@pytest.mark.parametrize("kind", ["constant", "linear"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weights_and_moments_are_prolonged(kind, optimizer: str):
    nested = options(transfer=kind, optimizer=optimizer)
    coarse = trainer_of_level(RECIPE, nested, 2)
    for _ in range(coarse.options.epochs):
        coarse.run_epoch(lambda _: None)
    fine = refined(coarse, RECIPE, nested)
    assert (coarse.level, fine.level, fine.depth) == (2, 1, 5 / 9)
    p = prolongation(5, 2, kind).float()
    stacked = {id(theta) for theta in fine.problem.propagated[0].parameters()}
    powers = {"exp_avg": 1, "exp_avg_sq": 2, "momentum_buffer": 1}
    for theta, theta_c in zip(fine.network.parameters(), coarse.network.parameters(), strict=True):
        is_layers = id(theta) in stacked
        expected = torch.tensordot(p, theta_c.detach(), 1) if is_layers else theta_c
        torch.testing.assert_close(theta, expected)
        state = coarse.optimizer.state[theta_c]
        assert set(state) & set(powers)
        for name, value in state.items():
            if is_layers and name in powers:
                value = torch.tensordot(p, value, 1) * (3 / 5) ** powers[name]
            torch.testing.assert_close(torch.as_tensor(fine.optimizer.state[theta][name]), torch.as_tensor(value))
    fine.run_epoch(lambda _: None)


Make = Callable[..., torch.optim.Optimizer]
MAKES: dict[str, Make] = {
    "sgd": lambda thetas: torch.optim.SGD(thetas, lr=0.1, momentum=0.9),
    "plain sgd": lambda thetas: torch.optim.SGD(thetas, lr=0.1),
    "adam": lambda thetas: torch.optim.Adam(thetas, lr=0.1),
    "amsgrad": lambda thetas: torch.optim.Adam(thetas, lr=0.1, amsgrad=True),
    "adamw": lambda thetas: torch.optim.AdamW(thetas, lr=0.1),
}


def own_network(layers: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), LayerParallel(None, lambda: DenseBlock(3), layers, 1.0), nn.Linear(3, 1))


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        network(torch.randn(5, 2)).square().sum().backward()
        optimizer.step()


def assert_states_are_prolonged(fine: torch.optim.Optimizer, coarse: torch.optim.Optimizer, networks) -> None:
    """Of a network of 8 layers and one of 4, by the constant prolongation."""
    powers = {"step": 0, "momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}
    for theta, theta_c in zip(*(network.parameters() for network in networks), strict=True):
        state, expected = fine.state.get(theta, {}), coarse.state.get(theta_c, {})
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            stacked = theta.shape != theta_c.shape and name != "step"
            came = value.repeat_interleave(2, 0) * 0.5 ** powers[name] if stacked else value
            torch.testing.assert_close(state[name], came)
            assert state[name] is not value


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("frozen", ["0", "1", "2", "none"])
@pytest.mark.parametrize("left_out", [False, True])
def test_moments_of_what_is_not_frozen_are_prolonged(make: Make, frozen: str, left_out: bool):
    networks = fine, coarse = own_network(8), own_network(4)
    for network in networks:
        for name, theta in network.named_parameters():
            theta.requires_grad_(not name.startswith(frozen))
    of_fine, of_coarse = (
        make([theta for theta in network.parameters() if theta.requires_grad or not left_out]) for network in networks
    )
    steps(coarse, of_coarse)
    prolong_(fine, coarse, optimizers=(of_fine, of_coarse))
    assert_states_are_prolonged(of_fine, of_coarse, networks)
    assert make is MAKES["plain sgd"] or len(of_fine.state) == sum(x.requires_grad for x in fine.parameters())
    steps(fine, of_fine)
    of_fine.state_dict()


def test_parameters_frozen_on_the_fine_network_alone():
    fine, coarse = own_network(8), own_network(4)
    fine[0].requires_grad_(False)
    of_fine, of_coarse = MAKES["adam"](fine[1:].parameters()), MAKES["adam"](coarse.parameters())
    steps(coarse, of_coarse)
    prolong_(fine, coarse, optimizers=(of_fine, of_coarse))
    assert of_fine.state.keys() == set(fine[1:].parameters())
    of_fine.state_dict()  # knows no other parameters


def test_amsgrad_after_adam_without():
    fine, coarse = own_network(8), own_network(4)
    of_fine, of_coarse = MAKES["amsgrad"](fine.parameters()), MAKES["adam"](coarse.parameters())
    steps(coarse, of_coarse)
    prolong_(fine, coarse, optimizers=(of_fine, of_coarse))
    assert all(not state["max_exp_avg_sq"].any() for state in of_fine.state.values())
    steps(fine, of_fine)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_nothing_is_carried_before_the_first_step(make: Make):
    fine, coarse = own_network(8), own_network(4)
    of_fine, of_coarse = make(fine.parameters()), make(coarse.parameters())
    prolong_(fine, coarse, optimizers=(of_fine, of_coarse))
    assert not of_fine.state and not of_coarse.state


def refusals() -> dict[str, tuple[Callable, type[Exception], str]]:
    """Name → (fine, coarse → optimizers), the error, its message."""
    adam, sgd = MAKES["adam"], MAKES["sgd"]
    classes = "expected two of one class of SGD, Adam, AdamW, or None"
    return {
        "swapped": (
            lambda f, c: (adam(c.parameters()), adam(f.parameters())),
            ValueError,
            "the fine network has param",
        ),
        "others": (lambda f, c: (adam(f.parameters()), adam(f.parameters())), ValueError, "the coarse network has par"),
        "two classes": (lambda f, c: (adam(f.parameters()), sgd(c.parameters())), TypeError, f"Adam, SGD; {classes}"),
        "RMSprop": (
            lambda f, c: tuple(torch.optim.RMSprop(network.parameters()) for network in (f, c)),
            TypeError,
            f"RMSprop, RMSprop; {classes}",
        ),
        "one": (lambda f, c: (adam(f.parameters()),), TypeError, "expected two, "),
        "no pair": (lambda f, c: adam(f.parameters()), TypeError, "expected two, "),
        "none": (lambda f, c: (None, None), TypeError, f"NoneType, NoneType; {classes}"),
    }


@pytest.mark.parametrize(("optimizers", "error", "message"), refusals().values(), ids=refusals())
def test_optimizers_that_cannot_go_along(optimizers: Callable, error: type[Exception], message: str):
    fine, coarse = own_network(8), own_network(4)
    before = [theta.detach().clone() for theta in fine.parameters()]
    with pytest.raises(error, match=message):
        prolong_(fine, coarse, optimizers=optimizers(fine, coarse))
    assert all(map(torch.equal, before, fine.parameters()))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"transfer": "quadratic"}, ValueError, "transfer is 'quadratic'; expected 'constant' or 'linear'"),
        ({"coarsening": 1}, ValueError, "coarsening is 1; expected at least 2"),
        ({"coarsening": "2"}, TypeError, "coarsening is '2'; expected an integer ≥ 2"),
    ],
)
def test_bad_transfers(changes, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        prolong_(own_network(8), own_network(4), **changes)


def test_networks_without_layers():
    with pytest.raises(ValueError, match="the networks have no LayerParallel"):
        prolong_(nn.Linear(2, 3), nn.Linear(2, 3))


@pytest.mark.usefixtures("no_plots")
def test_work_is_counted_by_depth_and_told_by_level(tmp_path: Path):
    run = tiny_run(
        tmp_path / "run", "peaks", layers=8, nested=2, nested_epochs=(3, 2), epochs=2, batch_size=5000, solver="serial"
    )
    summary = train(run)
    records = read_records(run.metrics)
    levels = [(r["kind"], r.get("level", 0), r["epoch"]) for r in records[:-1]]
    assert levels[:5] == [("nested", 2, 1), ("nested", 2, 2), ("nested", 2, 3), ("nested", 1, 1), ("nested", 1, 2)]
    assert levels[5:] == [("epoch", 0, 1), ("epoch", 0, 2)] and records[-1] == summary
    assert [r["work_units"] for r in records[:-1]] == [0.25] * 3 + [0.5] * 2 + [1.0] * 2
    assert summary["work_units"] == 3.75


@pytest.mark.parametrize("step", [2, 4, 6])
@pytest.mark.usefixtures("no_plots")
def test_resumed_in_any_level_it_is_the_uninterrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int):
    settings = {"layers": 8, "nested": 2, "nested_epochs": (2, 2), "epochs": 2, "batch_size": 5000}
    whole = tiny_run(tmp_path / "whole", "peaks", **settings)
    train(whole)
    broken = tiny_run(tmp_path / "broken", "peaks", **settings)
    with monkeypatch.context() as patch:
        InterruptAtStep(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    torch.rand(5)
    train(Run.resume(broken.folder, {}))
    expected = network_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in network_of(broken).items())
    left, right = read_records(broken.metrics), read_records(whole.metrics)
    assert list(map(without_seconds, left)) == list(map(without_seconds, right))
