"""Any learning-rate scheduler of PyTorch, by its name and its arguments as text: "StepLR", "step_size=10,gamma=0.5"."""

import ast
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler

from lpgpu.train.setup.errors import InputError


def scheduler_of(name: str, options: str, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """The scheduler `name` of torch.optim.lr_scheduler on `optimizer`.

    Raises `InputError` for a name that is none, or arguments that it refuses.
    """
    kind = getattr(lr_scheduler, name, None)
    if not (isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler)) or kind is lr_scheduler.LRScheduler:
        raise InputError(
            f"scheduler is {name!r}; expected none, or a class of torch.optim.lr_scheduler such as StepLR, "
            "CosineAnnealingLR, OneCycleLR or ReduceLROnPlateau"
        )
    try:
        return kind(optimizer, **_arguments(options))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{name} cannot be made with scheduler_options {options!r}: {error}") from error


def check_scheduler(name: str, options: str, steps: int) -> None:
    """Raise `InputError` unless it can be made and take so many steps; "none" is right, without options."""
    if name == "none":
        if options:
            raise InputError(f"scheduler_options are {options!r}, but there is no scheduler; name it with --scheduler")
        return
    # momentum, as the cyclic ones want it
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = scheduler_of(name, options, optimizer)
    optimizer.step()
    for step in range(1, steps + 1):
        try:
            step_scheduler(scheduler, lambda: 1.0)
        except (ArithmeticError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise InputError(
                f"{name} with scheduler_options {options!r} fails at step {step} of the run's {steps}: {error}"
            ) from error


def step_scheduler(scheduler: lr_scheduler.LRScheduler, loss: Callable[[], float]) -> None:
    """One step; `loss` is asked by the one kind of scheduler that looks at it."""
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(loss())
    else:
        scheduler.step()


def _arguments(options: str) -> dict[str, Any]:
    """ "T_max=10,eta_min=1e-5" → {"T_max": 10, "eta_min": 1e-5}; values are Python's literals, or words."""
    if not options:
        return {}
    try:
        call = ast.parse(f"f({options})", mode="eval").body
    except SyntaxError as error:
        raise ValueError("expected NAME=VALUE,NAME=VALUE") from error
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError("expected NAME=VALUE,NAME=VALUE")
    return {
        str(keyword.arg): keyword.value.id if isinstance(keyword.value, ast.Name) else ast.literal_eval(keyword.value)
        for keyword in call.keywords
    }
