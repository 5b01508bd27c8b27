"""Weight decay where a layer's weights are matrices, whatever the shape of their stack."""

from typing import Any

from torch import nn

from lpgpu.nn.layer_parallel import LayerParallel


def param_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for an optimizer in two groups: matrices and larger with `weight_decay`, vectors and scalars without.

    The usual rule, `p.ndim >= 2`, by the shapes of one layer: the biases and norms of a LayerParallel network are
    stacked, [layers, ...], and have one dimension more.

    >>> import torch
    >>> from lpgpu import LayerParallel, param_groups
    >>> from lpgpu.nn import DenseBlock
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), LayerParallel(None, lambda: DenseBlock(8), 16, 1.0))
    >>> optimizer = torch.optim.AdamW(param_groups(net, weight_decay=0.1), lr=1e-3)
    >>> [(group["weight_decay"], [tuple(p.shape) for p in group["params"]]) for group in optimizer.param_groups]
    [(0.1, [(8, 2), (16, 8, 8)]), (0.0, [(8,), (16, 8)])]

    Raises:
        ValueError: when `weight_decay` is negative.
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay is {weight_decay}; expected a number ≥ 0")
    stacks = (part.layers for part in module.modules() if isinstance(part, LayerParallel))
    stacked = {id(theta) for layers in stacks for theta in layers.parameters()}
    decayed, others = [], []
    for theta in module.parameters():
        (decayed if theta.ndim - (id(theta) in stacked) >= 2 else others).append(theta)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
