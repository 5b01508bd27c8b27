"""Options: bounds, messages, JSON."""

from pathlib import Path

import pytest
import torch

from lpgpu import MGRIT, Serial
from lpgpu.train import InputError, TrainOptions


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
        ("final_time", float("inf"), "final_time is inf; expected a finite number > 0"),
        ("solver", "exact", "solver is 'exact'; expected one of mgrit, serial"),
        ("optimizer", "lbfgs", "optimizer is 'lbfgs'; expected one of adam, sgd"),
        ("coarsening", 1, "coarsening is 1; expected at least 2"),
        ("levels", 0, "levels is 0; expected at least 1"),
        ("iterations", -1, "iterations is -1; expected at least 0"),
        ("relaxation", "C", "relaxation is 'C'; expected one of F, FCF"),
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


def test_solver_is_built_from_the_options():
    options = TrainOptions(levels=4, coarsening=2, iterations=3, adjoint_iterations=2, relaxation="F", cycle="F")
    expected = MGRIT(levels=4, coarsening=2, iterations=3, adjoint_iterations=2, relaxation="F", cycle="F")
    assert options.layer_solver() == expected
    assert TrainOptions(solver="serial").layer_solver() == Serial()


def test_auto_takes_the_gpu_where_there_is_one():
    assert TrainOptions().torch_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_json_brings_back_the_same_options(tmp_path: Path):
    options = TrainOptions(epochs=3, run_dir=tmp_path / "run", data_dir=tmp_path)
    assert TrainOptions.from_json(options.to_json()) == options


def test_json_with_an_unknown_option_is_refused():
    with pytest.raises(InputError, match="unknown option colour"):
        TrainOptions.from_json({"colour": "blue"})
