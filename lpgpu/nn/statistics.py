"""Running statistics (BatchNorm in training): updated once a forward, from the states that its solve ends with.

While it solves, a layer normalises by the statistics of the batch, which is a function of its state; what it would add
to the running ones is thrown away.

Cumulative averages (momentum=None, as torch.optim.swa_utils.update_bn asks for) weigh a batch by one over the number of
batches, which PyTorch reads from a tensor on the host: under torch.vmap that cannot be. So a layer is evaluated with
momentum 1, which gives the statistics of the batch alone, and the average is taken afterwards:

    mean ← mean + (mean of the batch − mean)/(n + 1)        n batches before
"""

import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lpgpu.nn.exclusively import lock_of

_COUNT = "num_batches_tracked"
_AVERAGES = ("running_mean", "running_var")
_warned: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


class InexactStatisticsWarning(RuntimeWarning):
    """BatchNorm in training is propagated by an inexact solve: its statistics are those of inexact states."""


def running_statistics(block: nn.Module) -> list[str]:
    """The names of the buffers of `block` that a forward in its present mode would update."""
    return [
        f"{prefix}{name}"
        for prefix, part in _updated(block)
        for name in (*_AVERAGES, _COUNT)
        if getattr(part, name, None) is not None
    ]


def cumulative_averages(block: nn.Module) -> dict[str, _NormBase]:
    """The parts of `block` that a forward would update by cumulative averages; prefixes of their buffers' names."""
    with lock_of(block):
        return {
            prefix: part
            for prefix, part in _updated(block)
            if part.momentum is None and part.num_batches_tracked is not None
        }


@contextmanager
def of_the_batch_alone(block: nn.Module, parts: Mapping[str, _NormBase]) -> Iterator[None]:
    """Within the context running statistics of these `parts` of `block` become those of the batch, in one thread."""
    if not parts:
        yield
        return
    with lock_of(block):
        before = [(part, part.momentum) for part in parts.values()]
        try:
            for part, _ in before:
                part.momentum = 1.0
            yield
        finally:
            for part, momentum in before:
                part.momentum = momentum


def cumulated(before: Mapping[str, Tensor], after: dict[str, Tensor], prefixes: Mapping[str, _NormBase]) -> None:
    """Make cumulative averages of the statistics `after` a forward of K layers, [K, ...], which are of the batch alone.

    Raises:
        RuntimeError: where a layer's step has updated one several times.
    """
    for prefix in prefixes:
        count = after[prefix + _COUNT]
        times = count - before[prefix + _COUNT]
        if (times != 1).any():
            raise RuntimeError(
                f"a layer's step updates the running statistics of {prefix.rstrip('.') or 'the block'} "
                f"{int(times.max())} times, by momentum=None: a cumulative average over the batches would need each of "
                'them. Use it once in the block, with scheme="euler", or give it a momentum'
            )
        for name in (prefix + name for name in _AVERAGES):
            weight = count.view(-1, *(1,) * (after[name].ndim - 1))
            after[name] = before[name] + (after[name] - before[name]) / weight


def check_statistics(block: nn.Module) -> None:
    """Refuse running statistics that cannot be updated once a forward.

    Raises:
        ValueError: for SyncBatchNorm.
    """
    for prefix, part in _updated(block):
        if isinstance(part, nn.SyncBatchNorm):
            raise ValueError(
                f"the block's {prefix.rstrip('.') or 'module'} (SyncBatchNorm) keeps running statistics in a way that "
                "many layers cannot share: use BatchNorm, GroupNorm or LayerNorm, track_running_stats=False, or frozen "
                "statistics, by .eval() of it inside block()"
            )


def warn_of_inexact_statistics(layers: nn.Module) -> None:
    """Warn that running statistics of these `layers` were taken from an inexact solve; once for each network."""
    if layers in _warned:
        return
    _warned.add(layers)
    warnings.warn(
        "BatchNorm in training mode is propagated by an inexact solve: it normalises by statistics of inexact states, "
        "and keeps these for eval mode. lpgpu.verify(net, step) says how far the states are off. More cycles or "
        "lpgpu.tune bring them nearer; GroupNorm keeps no statistics; and before evaluation "
        "torch.optim.swa_utils.update_bn(batches, net), with solver = Serial(), takes them anew from exact states",
        InexactStatisticsWarning,
        stacklevel=2,
    )


def _updated(block: nn.Module) -> Iterator[tuple[str, _NormBase]]:
    """The parts whose running statistics a forward in its present mode would update; prefixes of their names."""
    for name, part in block.named_modules():
        if isinstance(part, _NormBase) and part.track_running_stats and part.training:
            yield f"{name}." if name else "", part
