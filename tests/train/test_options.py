"""Options: bounds, messages, JSON."""

import json
from pathlib import Path

import pytest
import torch

from lpgpu import MGRIT, Serial
from lpgpu.train import GRUOptions, InputError, ODEOptions, TrainOptions
from lpgpu.train.options import int_per_level, word_per_level


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
        ("optimizer", "lbfgs", "optimizer is 'lbfgs'; expected one of adam, sgd"),
        ("coarsening", 1, "coarsening is 1; expected at least 2"),
        ("coarsening", "4", "coarsening is '4'; expected an integer or several"),
        ("coarsening", (4, 1), "coarsening is 1; expected at least 2"),
        ("coarsening", (4, 4, 4), "coarsening is (4, 4, 4); expected one value, or 2 of them"),
        ("relaxation", ("F",), "relaxation is ('F',); expected one value, or 2 of them"),
        ("delta", "full", "delta is 'full'; expected one of auto, diagonal, none"),
        ("levels", 0, "levels is 0; expected at least 1"),
        ("iterations", -1, "iterations is -1; expected at least 0"),
        ("relaxation", "C", "relaxation is 'C'; expected 'F' or 'FCF'"),
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


def test_one_value_or_one_per_level():
    assert int_per_level("4") == 4 and int_per_level("16,4") == (16, 4)
    assert word_per_level("F") == "F" and word_per_level("FCF,F") == ("FCF", "F")
    for text in ("", "4,", "four", "4.5"):
        with pytest.raises(ValueError):
            int_per_level(text)
    solver = TrainOptions(coarsening=(16, 4), relaxation=("FCF", "F"), delta="none").layer_solver()
    assert solver == MGRIT(coarsening=(16, 4), relaxation=("FCF", "F"), delta="none")


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
