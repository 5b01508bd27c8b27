"""Options: bounds, messages, JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from lpgpu import MGRIT, Serial
from lpgpu.train import GRUOptions, InputError, ODEOptions, TrainOptions, find_recipe
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.setup.option_types import metavar, parse, shown
from lpgpu.train.setup.schedulers import scheduler_of, step_scheduler


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 0, "epochs is 0; expected an integer ≥ 1"),
        ("epochs", 2.5, "epochs is 2.5; expected an integer ≥ 1"),
        ("epochs", True, "epochs is True; expected an integer ≥ 1"),
        ("batch_size", -1, "batch_size is -1; expected an integer ≥ 1"),
        ("seed", "one", "seed is 'one'; expected an integer ≥ 0"),
        ("learning_rate", 0.0, "learning_rate is 0.0; expected a finite number > 0"),
        ("learning_rate", float("nan"), "learning_rate is nan; expected a finite number > 0"),
        ("tikhonov", -1e-9, "tikhonov is -1e-09; expected a finite number ≥ 0"),
        ("solver", "exact", "solver is 'exact'; expected one of mgrit, serial"),
        ("optimizer", "lion", "optimizer is 'lion'; expected one of adam, adamw, sgd, lbfgs"),
        ("coarsening", 1, "coarsening is 1; expected at least 2"),
        ("coarsening", "4", "coarsening is '4'; expected one value, or 2 of them"),
        ("coarsening", (4, 1), "coarsening is 1; expected at least 2"),
        ("coarsening", (4, 4, 4), "coarsening is (4, 4, 4); expected one value, or 2 of them"),
        ("relaxation", ("F",), "relaxation is ('F',); expected one value, or 2 of them"),
        ("delta", "full", "delta is 'full'; expected one of 'none', 'diagonal', 'auto'"),
        ("cycle", "K", "cycle is 'K'; expected one of 'V', 'F', 'W'"),
        ("tolerance", -1.0, "tolerance is -1.0; expected None or a finite number ≥ 0"),
        ("levels", 0, "levels is 0; expected at least 1"),
        ("iterations", -1, "iterations is -1; expected at least 0"),
        ("relaxation", "C", "relaxation is 'C'; expected 'F' or 'FCF'"),
        ("amp", 1, "amp is 1; expected True or False"),
        ("scheduler", "Cosine", "scheduler is 'Cosine'; expected none, or a class of torch.optim.lr_scheduler"),
        ("scheduler", "LRScheduler", "scheduler is 'LRScheduler'; expected none"),
        ("scheduler", "StepLR", "StepLR cannot be made with scheduler_options ''"),
        ("scheduler", "LambdaLR", "LambdaLR cannot be made with scheduler_options ''"),
        ("scheduler_options", "gamma=1", "but there is no scheduler; name it with --scheduler"),
        ("control", "clever", "control is 'clever'; expected one of fixed, probe, adaptive, bias-budget"),
        ("checkpoint_every", -1, "checkpoint_every is -1; expected an integer ≥ 0"),
        ("device", "gpu", "device is 'gpu'; expected auto, cpu, cuda"),
        ("device", "meta", "device is 'meta'; expected auto, cpu or cuda"),
        ("device", "cuda:99", "device is 'cuda:99', but PyTorch sees"),
        ("run_dir", "text", "run_dir is 'text'; expected a path or nothing"),
        ("data_dir", Path("/nowhere/at/all"), "data_dir is '/nowhere/at/all'; expected an existing folder"),
    ],
)
def test_bad_values_are_named(name: str, value: object, message: str):
    with pytest.raises(InputError) as raised:
        TrainOptions(**{name: value})
    assert message in str(raised.value)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        (ODEOptions, "final_time", float("inf"), "final_time is inf; expected a finite number > 0"),
        (ODEOptions, "layers", 0, "layers is 0; expected an integer ≥ 1"),
        (GRUOptions, "formulation", "explicit", "formulation is 'explicit'; expected one of implicit, classic"),
        (GRUOptions, "hidden_size", 0, "hidden_size is 0; expected an integer ≥ 1"),
        (GRUOptions, "num_layers", 1.5, "num_layers is 1.5; expected an integer ≥ 1"),
        (GRUOptions, "dt", 0.0, "dt is 0.0; expected a finite number > 0"),
    ],
)
def test_bad_values_of_a_network_are_named(kind: type[TrainOptions], name: str, value: object, message: str):
    with pytest.raises(InputError) as raised:
        kind(**{name: value})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("hint", "text", "value", "name"),
    [
        (int, "-3", -3, "N"),
        (float | None, "1e-3", 1e-3, "X|none"),
        (float | None, "none", None, "X|none"),
        (bool | Literal["auto"], "false", False, "true|false|auto"),
        (bool | Literal["auto"], "auto", "auto", "true|false|auto"),
        (int | tuple[int, ...], "16,4", (16, 4), "N[,N…]"),
        (tuple[str, ...], "eat,run", ("eat", "run"), "NAME[,NAME…]"),
        (Literal["V", "W"], "W", "W", "V|W"),
    ],
)
def test_values_are_read_and_shown_by_their_type(hint: Any, text: str, value: object, name: str):
    assert parse(hint, text) == value and type(parse(hint, text)) is type(value)
    assert metavar(hint) == name
    assert parse(hint, shown(value)) == value


@pytest.mark.parametrize("hint", [int, float | None, bool | Literal["auto"], int | tuple[int, ...], Literal["V", "W"]])
def test_what_stands_for_no_value_is_refused(hint: Any):
    for text in ("nonsense", "", "1,", "None"):
        with pytest.raises(ValueError):
            parse(hint, text)


def test_every_field_of_mgrit_is_an_option_with_its_help():
    options = {field.name: field for field, _ in TrainOptions.typed_fields()}
    for field in dataclasses.fields(MGRIT):
        assert options[field.name].default == field.default
        assert options[field.name].metadata["help"], f"the docstring of MGRIT does not explain {field.name}"
    assert TrainOptions().mgrit() == MGRIT()


def test_one_value_or_one_per_level():
    hints = dict((field.name, hint) for field, hint in TrainOptions.typed_fields())
    assert parse(hints["coarsening"], "4") == 4 and parse(hints["coarsening"], "16,4") == (16, 4)
    assert parse(hints["relaxation"], "F") == "F" and parse(hints["relaxation"], "FCF,F") == ("FCF", "F")
    for text in ("", "4,", "four", "4.5"):
        with pytest.raises(ValueError):
            parse(hints["coarsening"], text)
    solver = TrainOptions(coarsening=(16, 4), relaxation=("FCF", "F"), delta="none").layer_solver()
    assert solver == MGRIT(coarsening=(16, 4), relaxation=("FCF", "F"), delta="none")


@pytest.mark.parametrize("text", ["step_size", "2", "step_size=2,,", "step_size=(", "step_size=open('x')"])
def test_scheduler_options_that_are_none(text: str):
    with pytest.raises(InputError, match="StepLR cannot be made with scheduler_options"):
        TrainOptions(scheduler="StepLR", scheduler_options=text)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("StepLR", "step_size=0", "fails at step 1 of the run's 3"),
        ("StepLR", "step_size=abc", "fails at step 1 of the run's 3"),
        ("CosineAnnealingLR", "T_max=0", "fails at step 1 of the run's 3"),
        ("OneCycleLR", "max_lr=0.1,total_steps=2", "fails at step 3 of the run's 3"),
    ],
)
def test_a_scheduler_that_fails_later_is_refused_at_once(name: str, text: str, says: str):
    with pytest.raises(InputError, match=says):
        TrainOptions(epochs=3, scheduler=name, scheduler_options=text)


def test_a_scheduler_of_batches_is_tried_for_all_of_them():
    options = {"layers": 4, "channels": 2, "epochs": 2, "batch_size": 1000, "device": "cpu", "scheduler": "OneCycleLR"}
    recipe = find_recipe("digits")
    enough, short = (f"max_lr=0.1,total_steps={steps}" for steps in (5, 3))
    per_batch = dataclasses.replace(recipe.defaults, **options, scheduler_options=enough, scheduler_every="batch")
    Trainer(recipe, per_batch)
    with pytest.raises(InputError, match="fails at step 4 of the run's 4"):
        Trainer(recipe, dataclasses.replace(per_batch, scheduler_options=short))


@pytest.mark.parametrize(("name", "value"), [("seed", 2**63), ("seed", 10**23), ("threads", 100_000_000)])
def test_numbers_beyond_what_can_be(name: str, value: int):
    with pytest.raises(InputError, match=rf"{name} is {value}; expected an integer ≥ 0 and ≤ "):
        TrainOptions(**{name: value})


def test_schedulers_are_pytorchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler_of("StepLR", "step_size=2, gamma=0.1", optimizer)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        step_scheduler(scheduler, lambda: 1.0)
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1])
    plateau = scheduler_of("ReduceLROnPlateau", "mode=min,factor=0.5,patience=0", optimizer)
    for loss in (1.0, 2.0):
        step_scheduler(plateau, lambda loss=loss: loss)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_solver_is_built_from_the_options():
    options = TrainOptions(levels=4, coarsening=2, iterations=3, adjoint_iterations=2, relaxation="F", cycle="F")
    expected = MGRIT(levels=4, coarsening=2, iterations=3, adjoint_iterations=2, relaxation="F", cycle="F")
    assert options.layer_solver() == expected
    assert TrainOptions(solver="serial").layer_solver() == Serial()


def test_auto_takes_the_gpu_where_there_is_one():
    assert TrainOptions().torch_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_json_brings_back_the_same_options(tmp_path: Path):
    options = GRUOptions(epochs=3, run_dir=tmp_path / "run", data_dir=tmp_path, coarsening=(8, 2), dt=0.5)
    assert GRUOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_json_with_an_unknown_option_is_refused():
    with pytest.raises(InputError, match="unknown option colour"):
        TrainOptions.from_json({"colour": "blue"})
