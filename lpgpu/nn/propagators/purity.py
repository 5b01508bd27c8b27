"""What would go wrong without a word: gradients of captured tensors, hooks, and forwards replaced behind a kernel.

A solve differentiates a block in its input and its own parameters, and fused kernels compute what a block was written
to compute. Whatever else takes part is refused here, or sends the block on the general path.
"""

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._pytree import tree_leaves

from lpgpu.nn.exclusively import lock_of

_of_fast_path = threading.Lock()
_without, _fast_path = 0, True  # how many are within `without_fast_path`, and what was set before

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_as_written(block: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether `block` is made of modules of exactly these `kinds`, none with hooks or a forward of its own."""
    return not _has_any_global_hook() and all(
        type(part) in kinds and "forward" not in vars(part) and not any(getattr(part, hooks) for hooks in _HOOKS)
        for part in block.modules()
    )


def is_of_kernel(convolution: nn.Module) -> bool:
    """Whether it is a 3×3 convolution with zero padding that keeps the image's size, as the kernel's are."""
    expected = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    return convolution.padding_mode == "zeros" and all(
        getattr(convolution, name) == value for name, value in expected.items()
    )


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Within the context attention is computed by operations that have derivatives and can be batched.

    In eval mode nn.MultiheadAttention and nn.TransformerEncoderLayer would take fused ones that have neither.
    """
    global _without, _fast_path
    mha = torch.backends.mha
    with _of_fast_path:  # the switch is the process's: the last thread to leave sets it back
        if _without == 0:
            _fast_path = mha.get_fastpath_enabled()
            mha.set_fastpath_enabled(False)
        _without += 1
    try:
        yield
    finally:
        with _of_fast_path:
            _without -= 1
            if _without == 0:
                mha.set_fastpath_enabled(_fast_path)


@contextmanager
def refusing_checkpoints() -> Iterator[None]:
    """Within the context: an error of torch.utils.checkpoint says that a block must not use it.

    It runs a part of the block again in backward, when the block has the weights of all layers, not those of one.
    """
    try:
        yield
    except Exception as error:
        if not any(path.endswith("/torch/utils/checkpoint.py") for path in _files(error.__traceback__)):
            raise
        raise RuntimeError(
            "the block uses torch.utils.checkpoint, which would run it again with the weights of all layers; leave it "
            'out: solver=MGRIT(store="c_points") stores C-points only and sweeps the others again'
        ) from error


@contextmanager
def refusing_kept_tensors(block: nn.Module) -> Iterator[None]:
    """Raise RuntimeError after the context where something keeps what passed a part of `block` that has forward hooks.

    It would have a tensor of all layers at once that torch.vmap has left behind, one for every visit of the solve.
    """
    passed: list[tuple[str, weakref.ref[Tensor]]] = []

    def look(name: str, module: nn.Module, arguments: Any, out: Any) -> None:
        tensors = (leaf for leaf in tree_leaves((arguments, out)) if isinstance(leaf, Tensor))
        passed.extend((name, weakref.ref(tensor)) for tensor in tensors if is_batchedtensor(tensor))

    with lock_of(block), ExitStack() as hooks:
        for name, part in block.named_modules():
            if part._forward_hooks:
                hooks.enter_context(part.register_forward_hook(partial(look, name or "module")))
        yield
    for name, tensor in passed:
        if tensor() is not None:
            raise RuntimeError(
                f"a forward hook of the block's {name} keeps a tensor of a solve, which visits every layer several "
                "times, all at once: what it keeps belongs to no layer. Remove the hook; of Hugging Face's models turn "
                "off output_hidden_states and output_attentions. To look into layers take net.to_sequential(), or "
                "unparallelize the model"
            )


def _files(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next


def refuse_backward_hooks(block: nn.Module) -> None:
    """Raise ValueError where a part of `block` has backward hooks: autograd does not see its calls one by one."""
    for name, part in block.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            raise ValueError(
                f"the block's {name or 'module'} ({type(part).__name__}) has backward hooks, which would never run: "
                "the layers are differentiated together. Register them on net.to_sequential(), or on parameters: "
                "net.layers.get_parameter(name).register_hook(...), which sees the gradients of all layers"
            )


def refuse_captured(out: Tensor, own: Iterable[Tensor]) -> None:
    """Raise ValueError where the graph of `out` leads to a tensor that wants a gradient and is not one of `own`.

    Such a tensor reached the block past its arguments and parameters, and would be left without its gradient.
    """
    known = set(map(id, own))
    seen, waiting = set(), [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of the nodes that end in a leaf
        if leaf is not None and id(leaf) not in known:
            raise ValueError(
                f"the block uses a tensor {tuple(leaf.shape)} that wants a gradient but is neither its input nor one "
                "of its parameters, so it would get none. Pass it as an argument, net(x, tensor), which reaches "
                "every block; make it an nn.Parameter of the block, inside block(); or .detach() it"
            )
        waiting.extend(following for following, _ in node.next_functions)
