"""The options that every recipe understands, with their help: the command line is generated from them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_type_hints

import torch

from lpgpu import MGRIT, Serial
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.mgrit_options import MGRIT_FIELDS, MGRITOptions
from lpgpu.train.setup.option_types import check, json_value, option
from lpgpu.train.setup.ranks import Ranks, ranks_of
from lpgpu.train.setup.schedulers import check_scheduler
from lpgpu.train.setup.words import counted


@dataclass(frozen=True, kw_only=True)
class TrainOptions(MGRITOptions):
    """What to train, how long, and where. A recipe is content with its own defaults.

    >>> TrainOptions(levels=2, coarsening=8, iterations=1).layer_solver().coarsening
    8
    >>> TrainOptions(epochs=0)
    Traceback (most recent call last):
        ...
    lpgpu.train.setup.errors.InputError: epochs is 0; expected an integer ≥ 1 (passes over the training set)

    Raises `InputError`, a ValueError, for a value out of its bounds, a solver that cannot be, a device that is absent.
    """

    epochs: int = option(10, "passes over the training set", least=1)
    batch_size: int = option(64, "examples per step; with the whole training set or more, full batch", least=1)
    seed: int = option(0, "of the initial weights and the order of the examples", least=0, most=2**63 - 1)
    optimizer: Literal["adam", "adamw", "sgd", "lbfgs"] = option(
        "adam", "lbfgs: full batch, line search for Wolfe's conditions from a step of --learning-rate; give it 1"
    )
    learning_rate: float = option(1e-3, "step size of the optimizer", above=0)
    momentum: float = option(0.9, "sgd: momentum", least=0)
    weight_decay: float = option(0.0, "weight decay of the optimizer", least=0)
    lbfgs_iterations: int = option(1, "lbfgs: iterations per step", least=1)
    decay: float = option(1.0, "factor on the learning rate after every epoch, where there is no --scheduler", above=0)
    scheduler: str = option("none", "a class of torch.optim.lr_scheduler, such as CosineAnnealingLR")
    scheduler_options: str = option("", "its arguments: T_max=10,eta_min=1e-5")
    scheduler_every: Literal["epoch", "batch"] = option("epoch", "when the scheduler takes a step")
    clip: float = option(0.0, "largest norm of the gradient, which is scaled down to it; 0: any", least=0)
    tikhonov: float = option(0.0, "weight γ of the penalty γ/2 Σ‖θ‖²", least=0)
    amp: bool = option(
        False,
        "PyTorch's autocast to bf16; fp32: dense and convolution kernels, and states but those of GRUs on GPUs"
        "PyTorch's autocast to bf16; dense and convolution kernels, and states but those of GRUs on GPUs, in fp32",
    )

    solver: Literal["mgrit", "serial", "auto"] = option(
        "mgrit", "all layers or time steps at once, or one after another; auto: what lpgpu.tune finds, time and again"
    )
    gradient_error: float = option(1e-2, "auto: largest relative error of the gradient", above=0)
    tune_by: Literal["time", "depth"] = option("time", "auto: what is to be least within that error")
    tune_tries: int = option(30, "auto: the most solvers to try", least=1)

    control: Literal["fixed", "probe", "adaptive", "bias-budget"] = option(
        "fixed",
        "mgrit: who chooses the cycles; probe: fixed too, and notes the gradient's error in the metrics; "
        "adaptive: by residuals; bias-budget: keeps Σ α·bias of the gradients bounded",
    )
    probe_every: int = option(200, "probe, adaptive, bias-budget, solver auto: batches between two probes", least=1)
    max_iterations: int = option(
        8, "adaptive, bias-budget: the most cycles, beyond which propagation is serial", least=1
    )
    residual_target: float = option(1e-2, "adaptive: relative residual to reach with the fewest cycles", above=0)
    bias_bound: float = option(0.1, "bias-budget: bound on Σ α·bias over the whole run", above=0)
    check_serial: bool = option(False, "test with exact propagation too after every epoch")
    checkpoint_every: int = option(0, "batches between two checkpoints; 0: one after every epoch", least=0)

    safetensors: bool = option(
        False, "also write the weights of each checkpoint to weights.safetensors, which other tools read"
    )

    timeline: int = option(
        0,
        "draw which rank computes and which waits in that training step of the run, counted from 1; 0: in none",
        least=0,
        bare=3,
    )

    layer_ranks: int = option(
        0, "under mpiexec: ranks that share one network's layers or time steps; 0: all that data-ranks leave", least=0
    )
    data_ranks: int = option(1, "under mpiexec: networks side by side, each with its share of every batch", least=1)

    device: str = option("auto", "cpu, cuda, cuda:1, …; auto is cuda where there is one, of several ranks each its own")
    threads: int = option(0, "CPU threads to compute with; 0 leaves the choice to PyTorch", least=0, most=4096)
    run_dir: Path | None = option(None, "new folder for the results [runs/RECIPE-DATE-TIME]")
    data_dir: Path | None = option(None, "folder with data files, for the recipes that need some")

    def __post_init__(self) -> None:
        for field, hint in self.typed_fields():
            if field.name not in MGRIT_FIELDS:  # which checks its own
                check(field, hint, getattr(self, field.name))
        self.layer_solver()
        if self.device != "auto":  # that one asks all ranks
            self.torch_device()
        if self.clip and self.optimizer == "lbfgs":
            raise InputError(f"clip is {self.clip}, which would mislead the line search of lbfgs; expected 0")
        check_scheduler(self.scheduler, self.scheduler_options, self.epochs if self.scheduler_every == "epoch" else 0)
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise InputError(f"data_dir is {str(self.data_dir)!r}; expected an existing folder")

    @classmethod
    def typed_fields(cls) -> list[tuple[dataclasses.Field, Any]]:
        """Each option's field and its resolved type, in order."""
        hints = get_type_hints(cls)
        return [(field, hints[field.name]) for field in dataclasses.fields(cls)]

    def layer_solver(self) -> MGRIT | Serial:
        """The solver that propagates through the layers; with "auto" until it is tuned."""
        mgrit = self.mgrit()
        return Serial() if self.solver == "serial" else mgrit

    def mgrit(self) -> MGRIT:
        """The iterative solver of these options, whether it trains or not."""
        try:
            return MGRIT(**{name: getattr(self, name) for name in MGRIT_FIELDS})
        except ValueError as error:
            raise InputError(str(error)) from error

    @property
    def network(self) -> str:
        """What is trained, in a few words."""
        return "network"

    @property
    def ranks(self) -> Ranks:
        """The ranks of this job. Raises `InputError` where there are not as many as these options say."""
        return ranks_of(self.layer_ranks, self.data_ranks)

    def check_ranks(self) -> None:
        """Raise `InputError` where the ranks of this job cannot train with these options."""

    def torch_device(self) -> torch.device:
        """The device to train on."""
        if self.device == "auto":
            return self.ranks.grid.device
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise InputError(f"device is {self.device!r}; expected auto, cpu, cuda or cuda:0, cuda:1, …") from error
        if device.type not in ("cpu", "cuda"):
            raise InputError(f"device is {self.device!r}; expected auto, cpu or cuda: no other kind is supported")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(
                f"device is {self.device!r}, but PyTorch sees {counted(torch.cuda.device_count(), 'CUDA device')}; "
                "choose auto or cpu, or see `lpgpu info`"
            )
        return device

    def to_json(self) -> dict[str, Any]:
        """The options as JSON's types."""
        return {name: json_value(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`. Raises `InputError` for an unknown option or a bad value."""
        hints = dict((field.name, hint) for field, hint in cls.typed_fields())
        unknown = sorted(values.keys() - hints.keys())
        if unknown:
            raise InputError(f"unknown option {', '.join(unknown)}; expected some of {', '.join(hints)}")
        typed: dict[str, Any] = dict(values)
        for name, value in values.items():
            if isinstance(value, str) and Path in get_args(hints[name]):
                typed[name] = Path(value)
            if isinstance(value, list):
                typed[name] = tuple(value)
        return cls(**typed)
