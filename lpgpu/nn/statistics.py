"""Running statistics (BatchNorm in training): updated once a forward, from the states that its solve ends with.

While it solves, a layer normalises by the statistics of the batch, which is a function of its state; what it would add
to the running ones is thrown away.
"""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def running_statistics(block: nn.Module) -> list[str]:
    """The names of the buffers of `block` that a forward in its present mode would update."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, part in block.named_modules()
        if isinstance(part, _NormBase) and part.track_running_stats and part.training
        for name in _BUFFERS
        if getattr(part, name, None) is not None
    ]


def check_statistics(block: nn.Module) -> None:
    """Refuse running statistics that cannot be updated once a forward.

    Raises:
        ValueError: for SyncBatchNorm, and for cumulative averages (momentum=None).
    """
    for name, part in block.named_modules():
        if not (isinstance(part, _NormBase) and part.track_running_stats and part.training):
            continue
        if isinstance(part, nn.SyncBatchNorm) or part.momentum is None:
            what = "SyncBatchNorm" if isinstance(part, nn.SyncBatchNorm) else f"{type(part).__name__} without momentum"
            raise ValueError(
                f"the block's {name or 'module'} ({what}) keeps running statistics in a way that many layers cannot "
                "share: use BatchNorm with a momentum, GroupNorm or LayerNorm, track_running_stats=False, or frozen "
                "statistics, by .eval() of it inside block()"
            )
