"""The options that every recipe understands, with their help: the command line is generated from them."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import torch

from lpgpu import MGRIT, Serial
from lpgpu.train.errors import InputError


def option(default: Any, help: str, *, least: float | None = None, above: float | None = None) -> Any:
    """A dataclass field with its help text and, for numbers, its bound: `least` is allowed itself, `above` is not."""
    return dataclasses.field(default=default, metadata={"help": help, "least": least, "above": above})


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train, how long, with which solver and where. A recipe is content with its own defaults.

    Raises `InputError`, a ValueError, for a value out of its bounds, a solver that cannot be, a device that is absent.
    """

    epochs: int = option(10, "passes over the training set", least=1)
    batch_size: int = option(64, "examples per step; with the whole training set or more, full batch", least=1)
    seed: int = option(0, "of the initial weights and the order of the examples", least=0)
    optimizer: Literal["adam", "sgd"] = option("adam", "sgd has a momentum of 0.9")
    learning_rate: float = option(1e-3, "step size of the optimizer", above=0)
    decay: float = option(1.0, "factor on the learning rate after every epoch", above=0)
    tikhonov: float = option(0.0, "weight γ of the penalty γ/2 Σ‖θ‖²", least=0)
    smoothness: float = option(0.0, "weight γ of the penalty γ/2 Σ‖θ_{k+1} − θ_k‖²/Δt over the layers k", least=0)

    layers: int = option(32, "steps of the ODE network", least=1)
    channels: int = option(8, "width of the ODE network", least=1)
    final_time: float = option(1.0, "T: each layer advances by Δt = T / layers", above=0)

    solver: Literal["mgrit", "serial"] = option("mgrit", "layer-parallel propagation, or layer after layer")
    levels: int = option(3, "mgrit: the most levels")
    coarsening: int = option(4, "mgrit: every how many layers a C-point lies")
    iterations: int = option(2, "mgrit: cycles of the forward solve")
    adjoint_iterations: int = option(1, "mgrit: cycles of the adjoint solve")
    relaxation: Literal["F", "FCF"] = option("FCF", "mgrit: relaxation")
    cycle: Literal["V", "F"] = option("V", "mgrit: cycle")
    store: Literal["all", "c_points"] = option("all", "mgrit: states kept for the adjoint; the others are recomputed")

    device: str = option("auto", "cpu, cuda, cuda:1, …; auto is cuda where there is one")
    threads: int = option(0, "CPU threads to compute with; 0 leaves the choice to PyTorch", least=0)
    run_dir: Path | None = option(None, "new folder for the results [runs/RECIPE-DATE-TIME]")
    data_dir: Path | None = option(None, "folder with data files, for the recipes that need some")

    def __post_init__(self) -> None:
        for field, hint in self.typed_fields():
            _check(field, hint, getattr(self, field.name))
        self.layer_solver()
        self.torch_device()
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise InputError(f"data_dir is {str(self.data_dir)!r}; expected an existing folder")

    @classmethod
    def typed_fields(cls) -> list[tuple[dataclasses.Field, Any]]:
        """Each option's field and its resolved type, in order."""
        hints = get_type_hints(cls)
        return [(field, hints[field.name]) for field in dataclasses.fields(cls)]

    def layer_solver(self) -> MGRIT | Serial:
        """The solver that propagates through the layers."""
        names = ("levels", "coarsening", "iterations", "adjoint_iterations", "relaxation", "cycle", "store")
        try:
            mgrit = MGRIT(**{name: getattr(self, name) for name in names})
        except ValueError as error:
            raise InputError(str(error)) from error
        return mgrit if self.solver == "mgrit" else Serial()

    def torch_device(self) -> torch.device:
        """The device to train on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
        """The options as JSON's types; paths become strings."""
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

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
        return cls(**typed)


def _check(field: dataclasses.Field, hint: Any, value: Any) -> None:
    """Raise `InputError` where `value` is not of the type, or not within the bounds, of the option."""
    expected = _expected(field, hint)
    allowed = (int, float) if hint is float else get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if get_origin(hint) is Literal:
        good = value in get_args(hint)
    else:
        good = isinstance(value, allowed) and not isinstance(value, bool) and _within_bounds(field, value)
    if not good:
        raise InputError(f"{field.name} is {value!r}; expected {expected} ({field.metadata['help']})")


def _within_bounds(field: dataclasses.Field, value: Any) -> bool:
    least, above = field.metadata["least"], field.metadata["above"]
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (least is None or value >= least) and (above is None or value > above)


def _expected(field: dataclasses.Field, hint: Any) -> str:
    """What an option takes, in words: "an integer ≥ 1"."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    names = {int: "an integer", float: "a finite number", str: "a text", Path: "a path", NoneType: "nothing"}
    words = " or ".join(names[kind] for kind in (get_args(hint) or (hint,)))
    for sign, bound in (("≥", field.metadata["least"]), (">", field.metadata["above"])):
        words += "" if bound is None else f" {sign} {bound}"
    return words
