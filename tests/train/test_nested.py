"""Nested iteration: levels, prolonged weights and moments, work, and runs that are interrupted in it."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lpgpu import Serial
from lpgpu.train import ODEOptions, Run, find_recipe, train
from lpgpu.train.metrics import read_records
from lpgpu.train.nested import deepest_level, options_of_level, refined, trainer_of_level
from lpgpu.train.transfer import prolongation
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
