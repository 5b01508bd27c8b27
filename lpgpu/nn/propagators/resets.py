"""Steps at which a new sequence begins: the state that arrives counts as zero, and so does every Jacobian there."""

import torch
import torch.nn.functional as F
from torch import Tensor


def spanned(resets: Tensor, m: int) -> Tensor:
    """Where a new sequence begins at any of the m steps from k on: boolean, like `resets` [T, B, 1].

    >>> spanned(torch.tensor([False, False, False, True]).view(4, 1, 1), 2).flatten().tolist()
    [False, False, True, True]
    """
    begun_before = F.pad(resets.cumsum(0), (0, 0, 0, 0, 1, 0))
    count = len(resets)
    stop = (torch.arange(count, device=resets.device) + m).clamp(max=count)
    return begun_before[stop] > begun_before[:-1]


def arriving(u: Tensor, resets: Tensor | None) -> Tensor:
    """The states u [K, B, H] that steps take as they arrive."""
    return u if resets is None else u.masked_fill(resets, 0)
