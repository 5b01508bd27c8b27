"""The skeleton of an operation: the backend that runs, what is counted, and what torch.compile captures.

A function of an operation exists twice, by one name and with the same arguments: in its package's `reference.py`, and
in `fused.py`, which is imported when a fused kernel is first wanted. An `Operation` stands for both. It does not check
its arguments: the package's public functions do, and the solver, which made its tensors itself, calls the unchecked
ones of `operators.py`.
"""

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from lpgpu.kernels import dispatch
from lpgpu.kernels.arguments import Signature, forms_of
from lpgpu.kernels.layout import why_unsupported
from lpgpu.kernels.precision import dot_precision

P = ParamSpec("P")
R = TypeVar("R")

REGISTRY: dict[str, "Operation"] = {}
"""Every operation's functions by name, such as "dense_step.sweep"; `registry.operations()` imports them all."""

_MOST_DECISIONS = 4096  # of an operation; a program meets a few dozen combinations of shapes


class Operation(Generic[P, R]):
    """One function of an operation, on the backend that its tensors take.

    Attributes:
        name: of package and function, as the counters of `dispatch` have it.
        reference: the function in plain PyTorch.
        operator: the operator of torch that stands for the function where torch.compile captures it, or None.
    """

    def __init__(
        self,
        reference: Callable[P, R],
        *,
        mutates: tuple[str, ...] = (),
        fake: Callable[P, R] | None = None,
        unsupported: Callable[..., str | None] = why_unsupported,
    ) -> None:
        """Register the function.

        Args:
            reference: as above; its first argument is a tensor, and its annotations say what the others are.
            mutates: the names of the tensors that it writes. With any, the function is an operator of torch.
            fake: what the operator returns for tensors without memory, where the function returns something.
            unsupported: called with all tensors among the arguments, says why no fused kernel takes them, or None.
        """
        self._package, _, _ = reference.__module__.rpartition(".")
        self.name = f"{self._package.rpartition('.')[2]}.{reference.__name__}"
        self.reference = reference
        self._unsupported = unsupported
        self._reasons: dict[Any, str | None] = {}
        self.signature = Signature.of(reference)
        self._like = self.signature.first_tensor
        self.operator = self._as_operator(mutates, fake) if mutates or fake else None
        REGISTRY[self.name] = self

    @functools.cached_property
    def fused(self) -> Callable[P, R]:
        """The function that launches Triton kernels."""
        return getattr(import_module(f"{self._package}.fused"), self.reference.__name__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.operator is not None and torch.compiler.is_compiling():
            return self.operator(*self.signature.flat(args))
        return self.run(*args, **kwargs)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """By the backend that `dispatch` decides on for the first argument's device."""
        like: Any = args[self._like]
        if not dispatch.could_fuse(like):
            dispatch.count_reference(self.name)
            return self.reference(*args, **kwargs)
        if dispatch.is_fused(self.name, like, self.why_unsupported(*args)):
            return self.fused(*args, **kwargs)
        return self.reference(*args, **kwargs)

    def why_unsupported(self, *args: Any) -> str | None:
        """Why no fused kernel takes these arguments, or None; found once for each combination of shapes and strides."""
        tensors = self.signature.tensors(args)
        like = args[self._like]
        key = like.device, dot_precision(like.dtype), forms_of(tensors)
        if key not in self._reasons:
            if len(self._reasons) >= _MOST_DECISIONS:
                self._reasons.clear()
            self._reasons[key] = self._unsupported(*tensors)
        return self._reasons[key]

    def _as_operator(self, mutates: tuple[str, ...], fake: Callable[P, R] | None) -> Any:
        signature = self.signature

        def run(*flat: Any) -> Any:
            return self.run(*signature.whole(flat))  # pyright: ignore[reportCallIssue]

        name = f"lpgpu::{self.name.replace('.', '_')}"
        operator = torch.library.custom_op(name, run, mutates_args=mutates, schema=signature.schema(mutates))
        operator.register_fake(lambda *flat: None if fake is None else fake(*signature.whole(flat)))  # pyright: ignore
        return operator


def once_differentiable(
    forward: Any,
    backward: Any,
    in_order: Callable[..., tuple[Tensor | None, ...]],
    *,
    pull_back: Callable[..., Any] | None = None,
) -> None:
    """Make operator `forward` differentiable by operator `backward`, once.

    `backward(λ, *inputs)`, or `pull_back`, which calls it, gives the gradients; `in_order(inputs, gradients)` puts them
    in the order of the inputs. A second derivative raises, also where the incoming gradient is a constant, because the
    backward operator sees the inputs.
    """
    pulled_back = pull_back or backward
    name = forward._qualname.partition("::")[2]

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.constants = [None if isinstance(each, Tensor) else each for each in inputs]
        ctx.is_tensor = [isinstance(each, Tensor) for each in inputs]
        ctx.save_for_backward(*(each for each in inputs if isinstance(each, Tensor)))

    def differentiate(ctx: Any, lam: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved) if t else c for t, c in zip(ctx.is_tensor, ctx.constants, strict=True)]
        return in_order(inputs, pulled_back(lam, *inputs))

    def refuse(ctx: Any, *gradients: Any) -> None:
        raise RuntimeError(
            f"{name} can be differentiated once only, on every backend: write the step in plain PyTorch where a second "
            "derivative is wanted"
        )

    forward.register_autograd(differentiate, setup_context=save)
    backward.register_autograd(refuse)
