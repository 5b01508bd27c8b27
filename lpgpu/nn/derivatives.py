"""Derivatives through a solve: what is kept for them, those of many losses at once, and derivatives of derivatives.

A first derivative comes from the adjoint solve, a constant to autograd. Where it is to be differentiated again
(`create_graph=True`) it must be a function of all inputs: of an exact solve it is that of plain PyTorch, layer after
layer; of an inexact one there is none, and it is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lpgpu.nn.as_called import AsCalled

Gradients = tuple[Tensor | None, ...]


class Kept:
    """What a differentiable operation keeps from forward to backward, beside the tensors that autograd watches.

    `solve` is the forward solve; `plain(*inputs)` computes the same in plain PyTorch where the solve is exact, None
    where it is not; `watched` are those of the inputs that must not be changed in place before backward, and neither
    must the buffers of the module `as_called`, whose modes backward restores.
    """

    def __init__(
        self,
        solve: Any,
        plain: Callable[..., Tensor] | None,
        inputs: Sequence[Tensor | None],
        watched: Sequence[Tensor | None],
        as_called: AsCalled,
    ) -> None:
        self.solve = solve
        self.plain = plain
        # of an inexact solve nothing but what it keeps itself
        self.inputs = tuple(inputs) if plain is not None else ()
        self._of_inputs = _versions(self.inputs)
        self._of_watched = _versions(watched)
        self._of_buffers = _versions(as_called.buffers)
        self.as_called = as_called

    def check_unchanged(self) -> None:
        """Raise RuntimeError where a weight (saved-tensor hooks may have kept a copy) or a buffer was changed."""
        _check_versions(self._of_watched, "a weight")
        _check_versions(self._of_buffers, "a buffer")

    def check_inputs_unchanged(self) -> None:
        """Raise RuntimeError where any input was changed."""
        _check_versions(self._of_inputs, "an input")


def pulled_back(ctx: Any, gradients: Sequence[Tensor], first: Callable[..., Gradients], *, skip: int) -> Gradients:
    """The gradients of an operation's inputs past the first `skip`: `first(*gradients)`, which solves the adjoint.

    Of many losses at once (`is_grads_batched`) one after another; where a graph of them is wanted, by plain PyTorch.

    Raises:
        RuntimeError: when a second derivative of an inexact solve is asked for, or an input or a buffer was changed in
            place.
    """
    _ = ctx.saved_tensors  # raises where one was changed in place, or the graph has been freed
    kept: Kept = ctx.kept
    kept.check_unchanged()
    # a backward inside autocast is as one outside
    with torch.autocast(gradients[0].device.type, enabled=False), kept.as_called.restored():
        if torch.is_grad_enabled():
            found = _differentiable(kept, gradients, ctx.needs_input_grad[skip:])
        elif _are_many(gradients):
            found = _one_after_another(first, gradients)
        else:
            found = first(*gradients)
    if not torch._C._autograd._get_current_graph_task_keep_graph():  # pyright: ignore[reportAttributeAccessIssue]
        ctx.kept = None  # with all that autograd has saved
    return found


def refuse_all_but_first_derivatives(gradients: Sequence[Tensor]) -> None:
    """Raise where backward is itself to be differentiated, or is of many losses, of what several ranks share."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a second derivative (create_graph=True) of a network that several ranks share is not offered; compute it "
            "on one process, by a network built with comm=None, or by to_sequential()"
        )
    if _are_many(gradients):
        raise RuntimeError(
            "gradients of many losses at once (is_grads_batched=True, vectorize=True) of a network that several ranks "
            "share are not offered; take them one after another"
        )


def _differentiable(kept: Kept, gradients: Sequence[Tensor], wanted: Sequence[bool]) -> Gradients:
    """∂⟨gradient, plain(inputs)⟩/∂input of every input that wants one, as functions of inputs and gradient."""
    if kept.plain is None:
        raise RuntimeError(
            "a second derivative (create_graph=True) needs exact propagation on one process: this solve was inexact, "
            "and its gradient is no function that could be differentiated. Assign solver = Serial() before the "
            "forward, or use to_sequential(); for a first derivative leave out create_graph"
        )
    kept.check_inputs_unchanged()
    # of views: an input may depend on another one, whose gradient would then count twice
    inputs = [None if each is None else each.view_as(each) for each in kept.inputs]
    y = kept.plain(*inputs)
    asked = [each for each, is_wanted in zip(inputs, wanted, strict=True) if is_wanted and each is not None]
    found = iter(
        torch.autograd.grad(y, asked, gradients, create_graph=True, allow_unused=True, materialize_grads=True)
        if asked
        else ()
    )
    return tuple(
        next(found) if is_wanted and each is not None else None for each, is_wanted in zip(inputs, wanted, strict=True)
    )


def _are_many(gradients: Sequence[Tensor]) -> bool:
    """Whether they are of many losses at once: autograd then marks the losses' dimension, and hides it."""
    is_marked = torch._C._functorch.is_legacy_batchedtensor  # pyright: ignore[reportAttributeAccessIssue]
    return any(map(is_marked, gradients))


def _one_after_another(first: Callable[..., Gradients], gradients: Sequence[Tensor]) -> Gradients:
    """`first` of each loss, stacked along the hidden dimension that it came from."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    shown = (torch._remove_batch_dim(gradient, level, 1, 0) for gradient in gradients)
    of_each = [first(*of_one) for of_one in zip(*shown, strict=True)]
    return tuple(
        None if parts[0] is None else torch._add_batch_dim(torch.stack(parts), 0, level)  # pyright: ignore
        for parts in zip(*of_each, strict=True)
    )


def _versions(tensors: Sequence[Tensor | None]) -> list[tuple[Tensor, int]]:
    """Each tensor, without its graph, with its version now; of inference tensors, which count none, nothing."""
    return [(each.detach(), each._version) for each in tensors if each is not None and not each.is_inference()]


def _check_versions(versions: list[tuple[Tensor, int]], what: str) -> None:
    for tensor, version in versions:
        if tensor._version != version:
            raise RuntimeError(
                f"{what} {tuple(tensor.shape)} of this solve has been modified by an inplace operation since forward; "
                "change it after backward only (allow_mutation_on_saved_tensors does not reach into a solve)"
            )
