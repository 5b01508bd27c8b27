"""An existing model's equal blocks, made layer-parallel in their place with their weights, and back."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lpgpu.comm import as_communicator
from lpgpu.mgrit import Solver
from lpgpu.nn.alike import Pattern, refuse_compiled
from lpgpu.nn.buffers import check_pair
from lpgpu.nn.eager import eager
from lpgpu.nn.followers import Follower, RunCall
from lpgpu.nn.layer_index import IndexOfLayer
from lpgpu.nn.layer_parallel import LayerParallel
from lpgpu.nn.schemes import Form
from lpgpu.nn.stacking import slots


class ParallelBlocks(LayerParallel):
    """Blocks of a model, propagated together where the first of them stood; a `Follower` stands for each of the others.

    What a model asks its blocks for, an attribute or a submodule, is answered by the stack of them.
    """

    _before: tuple[nn.Module, ...] = ()  # the blocks
    _names: tuple[str, ...] = ()  # of all children of the list

    @classmethod
    def of_run(cls, comm: Any, run: Sequence[nn.Module], names: Sequence[str], **options: Any) -> Self:
        """That of a run of equal blocks, in their modes; the children of the list were called `names`."""
        part = cls.of_modules(comm, run, **options)
        _mirror_modes(part.layers, run[0])
        part.training = run[0].training
        part._before, part._names = tuple(run), tuple(names)
        return part

    @eager
    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As of every `LayerParallel`; what it returns is known to the blocks that follow."""
        out = super().__call__(x, *args, **kwargs)
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        return RunCall(out, args, kwargs).returned(tensors, 0)

    def followers(self, path: str, names: Sequence[str]) -> list[Follower]:
        """What stands for the other blocks, which were called `names` in the list `path`, with the first one."""
        return [Follower(self, place, len(names), f"{path}.{name}") for place, name in enumerate(names)][1:]

    def empty_blocks(self) -> None:
        """Let go of the memory of the blocks; their tensors keep their names."""
        for _, _, (tensor,) in chain(*(slots([block]) for block in self._before)):
            tensor.data = tensor.data.new_empty(0)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layers":
                raise
            value = getattr(self.layers, name)
            return value.of_first if isinstance(value, IndexOfLayer) else value


def parallelize(
    model: nn.Module,
    path: str,
    *,
    comm: Any = None,
    solver: Solver | None = None,
    form: Form = "residual",
    buffer: tuple[int, int] = (0, 0),
    block_dtype: torch.dtype | None = None,
) -> list[LayerParallel]:
    """Replace runs of equal blocks in the list `model.<path>` by layer-parallel ones with the same weights.

    The model's own forward runs as it is, through a list (nn.ModuleList or nn.Sequential) of as many elements. The
    first of a run of two or more equal blocks propagates all of them, and the others pass on what it returns; so the
    model may do nothing but hand the state from one to the next, with the same arguments: all else raises an error.
    What differs (another width, frozen parameters, a transition between stages) ends a run, and single blocks stay as
    they are. Make optimizers afterwards: the parameters are new ones, [layers, ...].

    Args:
        model, path: what holds the list, and where, such as "transformer.h".
        comm: None, or a communicator whose ranks share each run; a run of fewer blocks than ranks stays.
        solver: of every run; may be assigned later, to each of those that are returned.
        form: what a block returns, as for `LayerParallel`: "residual" is the next state.
        buffer: how many blocks at the beginning and at the end stay as they are, walked one by one.
        block_dtype: of every run, as for `LayerParallel`: bf16 or fp16 for the products of its blocks.

    Returns:
        The parts that are propagated in parallel, in order.

    Raises:
        TypeError, ValueError: where there is no such list, or nothing in it to parallelize; for parameters that are
            tied between blocks, or with something outside of them; for a block_dtype that is none.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(*(nn.Sequential(nn.Linear(8, 8)) for _ in range(6))))
    >>> (part,) = parallelize(model, "1", solver=MGRIT(coarsening=2), buffer=(1, 1))
    >>> part.num_steps, part is model[1][1]
    (4, True)
    """
    container = _container(model, path)
    first, last = _checked_buffer(buffer, len(container))
    _refuse_ties(model, path, list(container)[first : len(container) - last])
    return _made_parallel(container, path, first, last, comm, form=form, solver=solver, block_dtype=block_dtype)


def unparallelize(model: nn.Module, path: str) -> None:
    """Undo `parallelize`: the blocks are back, with the weights and gradients that they have now.

    `model.state_dict()` has the names, in the order, that it had before. Collective over the ranks that share blocks.

    >>> model = nn.ModuleList([nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))])
    >>> names = list(model.state_dict())
    >>> parts = parallelize(model, "0")
    >>> unparallelize(model, "0")
    >>> list(model.state_dict()) == names
    True

    Raises:
        ValueError: where nothing is parallelized.
    """
    container = _container(model, path)
    parts = [block for block in container.children() if isinstance(block, ParallelBlocks)]
    if not parts:
        raise ValueError(f"{path} holds no blocks that parallelize() has replaced")
    blocks: list[nn.Module] = []
    for block in container.children():
        if not isinstance(block, Follower):
            blocks.extend(_restored(block) if isinstance(block, ParallelBlocks) else [block])
    _replace(container, parts[0]._names, blocks)


def _container(model: nn.Module, path: str) -> nn.ModuleList | nn.Sequential:
    try:
        container = model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"the model has no {path!r}: {error}") from error
    if not isinstance(container, nn.ModuleList | nn.Sequential):
        raise TypeError(
            f"{path} is {type(container).__name__}; expected the nn.ModuleList or nn.Sequential that holds the blocks"
        )
    return container


def _made_parallel(
    container: nn.ModuleList | nn.Sequential, path: str, first: int, last: int, comm: Any, **options: Any
) -> list[LayerParallel]:
    """Put a part in the place of each run of blocks between the `first` and the `last` ones; the parts.

    All parts are made before anything is replaced.
    """
    least = max(2, as_communicator(comm).size)
    names, blocks = zip(*container.named_children(), strict=True)
    middle = blocks[first : len(blocks) - last]
    if any(isinstance(block, ParallelBlocks) for block in blocks):
        raise ValueError(f"{path} is parallelized already; unparallelize(model, {path!r}) first")
    for block in middle:
        refuse_compiled(block)
    replaced, parts = list(blocks[:first]), []
    for run in _runs(middle):
        if len(run) < least:
            replaced.extend(run)
            continue
        parts.append(ParallelBlocks.of_run(comm, run, names, **options))
        replaced += [parts[-1], *parts[-1].followers(path, names[len(replaced) : len(replaced) + len(run)])]
    if not parts:
        raise ValueError(
            f"{path} has no {least} equal blocks in a row between its buffers; expected blocks of one structure, with "
            f"the same attributes and hooks, and the same parameters frozen{_first_difference(middle)}"
        )
    for part in parts:
        part.empty_blocks()
    replaced.extend(blocks[len(blocks) - last :])
    _replace(container, names, replaced)
    return parts


def _checked_buffer(buffer: tuple[int, int], count: int) -> tuple[int, int]:
    check_pair(buffer)
    first, last = buffer
    if first + last > count:
        raise ValueError(
            f"buffer is {buffer}; expected two numbers ≥ 0, together at most {count}, the blocks there are"
        )
    return first, last


def _runs(blocks: Sequence[nn.Module]) -> Iterator[list[nn.Module]]:
    """Consecutive blocks that are alike."""
    start, pattern = 0, Pattern(blocks[0]) if blocks else None
    for k, block in enumerate(blocks):
        if pattern and (type(block) is not type(pattern.first) or pattern.differences(block)):
            yield list(blocks[start:k])
            start, pattern = k, Pattern(block)
    yield list(blocks[start:])


def _first_difference(blocks: Sequence[nn.Module]) -> str:
    """Why the second of these blocks is unlike the first, as the end of a sentence; "" where there are not two."""
    if len(blocks) < 2:
        return ""
    one, other = blocks[:2]
    if type(one) is not type(other):
        return f". The first two are {type(one).__name__} and {type(other).__name__}"
    return f". Of the first two:\n{Pattern(one).differences(other)}"


def _refuse_ties(model: nn.Module, path: str, blocks: Sequence[nn.Module]) -> None:
    """Raise ValueError where a block shares a parameter with another block, or with what is no block."""
    owners: dict[int, nn.Module] = {}
    for block in blocks:
        for name, parameter in block.named_parameters():
            if owners.setdefault(id(parameter), block) is not block:
                raise ValueError(f"the blocks share their parameter {name!r}; expected each to have its own")
    for name, module in model.named_modules(remove_duplicate=False):
        outside = not name.startswith(f"{path}.")
        if outside and any(id(parameter) in owners for parameter in module._parameters.values()):
            raise ValueError(f"a parameter of {name or 'the model'} is tied to one inside the blocks; untie them first")


def _mirror_modes(to: nn.Module, of: nn.Module) -> None:
    for part, other in zip(to.modules(), of.modules(), strict=True):
        part.training = other.training


def _take_hooks(to: nn.Module, of: nn.Module) -> None:
    """Give a block the forward hooks that its stack was given meanwhile: they were those of every layer."""
    for part, other in zip(to.modules(), of.modules(), strict=True):
        for key, hook in other._forward_hooks.items():
            if hook not in part._forward_hooks.values():
                with_kwargs, always = key in other._forward_hooks_with_kwargs, key in other._forward_hooks_always_called
                part.register_forward_hook(hook, with_kwargs=with_kwargs, always_call=always)


@torch.no_grad()
def _restored(part: ParallelBlocks) -> Sequence[nn.Module]:
    """The blocks that a part was made of, with the weights, gradients and modes that it has now."""
    whole = part._all_layers()
    gradients = {
        name: None if theta.grad is None else part.of_all_ranks(theta.grad)
        for name, theta in part.layers.named_parameters()
    }
    for layer, block in enumerate(part._before):
        for _, _, (stacked, tensor) in slots([whole, block]):
            tensor.data = stacked.detach()[layer].clone()
            tensor.requires_grad_(stacked.requires_grad)
        for name, parameter in block.named_parameters():
            gradient = gradients.get(name)
            parameter.grad = None if gradient is None else gradient[layer].clone()
        _mirror_modes(block, part.layers)
        _take_hooks(block, part.layers)
    return part._before


def _replace(container: nn.Module, names: Iterable[str], children: Sequence[nn.Module]) -> None:
    container._modules.clear()
    container._modules.update(zip(names, children, strict=True))
