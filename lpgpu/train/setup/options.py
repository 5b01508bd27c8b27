"""The options that every recipe understands, with their help: the command line is generated from them."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import torch

from lpgpu import MGRIT, Serial
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.ranks import Ranks, ranks_of
from lpgpu.train.setup.schedulers import check_scheduler


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    parse: Callable[[str], Any] | None = None,
    bare: Any = None,
) -> Any:
    """A dataclass field with its help text and, for numbers, its bounds: `least` and `most` included, `above` not.

    `parse` reads the value from the command line; without it the type does. `bare` is what the option means there when
    it is named without a value.
    """
    metadata = {"help": help, "least": least, "above": above, "most": most, "parse": parse, "bare": bare}
    return dataclasses.field(default=default, metadata=metadata)


def int_per_level(text: str) -> int | tuple[int, ...]:
    """ "4" → 4, for all levels; "16,4" → (16, 4), finest first. Raises ValueError for anything else."""
    first, *others = map(int, text.split(","))
    return (first, *others) if others else first


def integers(text: str) -> tuple[int, ...]:
    """ "0,1,2" → (0, 1, 2). Raises ValueError for anything else."""
    return tuple(map(int, text.split(",")))


def words(text: str) -> tuple[str, ...]:
    """ "eat,run" → ("eat", "run")."""
    return tuple(text.split(","))


def word_per_level(text: str) -> str | tuple[str, ...]:
    """ "FCF" → "FCF", for all levels; "FCF,F" → ("FCF", "F"), finest first."""
    first, *others = text.split(",")
    return (first, *others) if others else first


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train, how long, with which solver and where. A recipe is content with its own defaults.

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
    amp: bool = option(False, "bf16 where PyTorch's autocast holds it safe; layers propagate in their own precision")

    solver: Literal["mgrit", "serial"] = option("mgrit", "all layers or time steps at once, or one after another")
    levels: int = option(3, "mgrit: the most levels")
    coarsening: int | tuple[int, ...] = option(
        4,
        "mgrit: every how many steps a C-point lies; or one number per level, finest first: 16,4",
        parse=int_per_level,
    )
    iterations: int = option(2, "mgrit: cycles of the forward solve")
    adjoint_iterations: int = option(1, "mgrit: cycles of the adjoint solve")
    relaxation: str | tuple[str, ...] = option(
        "FCF", "mgrit: relaxation, F or FCF; or one per level, finest first: FCF,F", parse=word_per_level
    )
    cycle: Literal["V", "F"] = option("V", "mgrit: cycle")
    store: Literal["all", "c_points"] = option("all", "mgrit: states kept for the adjoint; the others are recomputed")
    delta: Literal["auto", "diagonal", "none"] = option(
        "auto", "mgrit: Δ-correction of the coarse grids by Jacobian diagonals; auto is on for recurrent cells alone"
    )

    control: Literal["fixed", "adaptive", "bias-budget"] = option(
        "fixed",
        "mgrit: who chooses the cycles; adaptive: by residuals; bias-budget: keeps Σ α·bias of the gradients bounded",
    )
    probe_every: int = option(200, "adaptive, bias-budget: batches between two probes", least=1)
    max_iterations: int = option(
        8, "adaptive, bias-budget: the most cycles, beyond which propagation is serial", least=1
    )
    residual_target: float = option(1e-2, "adaptive: relative residual to reach with the fewest cycles", above=0)
    bias_bound: float = option(0.1, "bias-budget: bound on Σ α·bias over the whole run", above=0)
    check_serial: bool = option(False, "test with exact propagation too after every epoch")
    checkpoint_every: int = option(0, "batches between two checkpoints; 0: one after every epoch", least=0)

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
            _check(field, hint, getattr(self, field.name))
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
        """The solver that propagates through the layers."""
        mgrit = self.mgrit()
        return mgrit if self.solver == "mgrit" else Serial()

    def mgrit(self) -> MGRIT:
        """The iterative solver of these options, whether it trains or not."""
        names = ("levels", "coarsening", "iterations", "adjoint_iterations", "relaxation", "cycle", "store", "delta")
        try:
            return MGRIT(**{name: getattr(self, name) for name in names})
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
                f"device is {self.device!r}, but PyTorch sees {torch.cuda.device_count()} CUDA devices; "
                "choose auto or cpu, or see `lpgpu info`"
            )
        return device

    def to_json(self) -> dict[str, Any]:
        """The options as JSON's types: paths become strings, tuples lists."""
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


def json_value(value: Any) -> Any:
    """The value of an option as JSON's types."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _check(field: dataclasses.Field, hint: Any, value: Any) -> None:
    """Raise `InputError` where `value` is not of the type, or not within the bounds, of the option."""
    expected = _expected(field, hint)
    allowed = (int, float) if hint is float else _kinds(hint)
    if get_origin(hint) is Literal:
        good = value in get_args(hint)
    else:
        good = isinstance(value, allowed) and isinstance(value, bool) == (hint is bool) and _within_bounds(field, value)
    if not good:
        raise InputError(f"{field.name} is {value!r}; expected {expected} ({field.metadata['help']})")


def _kinds(hint: Any) -> tuple[type, ...]:
    """The classes that a type, or a union of types, allows."""
    return tuple(get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))


def _within_bounds(field: dataclasses.Field, value: Any) -> bool:
    least, above, most = (field.metadata[bound] for bound in ("least", "above", "most"))
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (least is None or value >= least) and (above is None or value > above) and (most is None or value <= most)


_BOUNDS = (("≥", "least"), (">", "above"), ("≤", "most"))


def _expected(field: dataclasses.Field, hint: Any) -> str:
    """What an option takes, in words: "an integer ≥ 1"."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    names = {
        int: "an integer",
        float: "a finite number",
        bool: "True or False",
        str: "a text",
        Path: "a path",
        NoneType: "nothing",
        tuple: "several",
    }
    words = " or ".join(names[kind] for kind in _kinds(hint))
    bounds = [f"{sign} {field.metadata[name]}" for sign, name in _BOUNDS if field.metadata[name] is not None]
    return " ".join([words, " and ".join(bounds)]).rstrip()
