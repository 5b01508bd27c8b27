"""New process groups of torch.distributed."""

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist


def new_groups(rows: Sequence[Sequence[int]], *, alone: bool = False, **options: Any) -> Any:
    """Make process groups of these global ranks, in this order, and return that which this rank is in.

    Collective over the ranks of all `rows`, which call with the same arguments. Where these are all ranks of the job,
    each makes every group, as NCCL's communicators need it that are split from one another; else, and if `alone`, each
    makes its own.
    """
    together = not alone and covers_the_job(rows)
    mine: Any = None
    for row in rows:
        if not together and dist.get_rank() not in row:
            continue
        if list(row) != sorted(row):
            options["sort_ranks"] = False
        made = dist.new_group(list(row), use_local_synchronization=not together, **options)
        if dist.get_rank() in row:
            mine = made
    return mine


def covers_the_job(rows: Sequence[Sequence[int]]) -> bool:
    """Whether every rank of the job is in one of the rows."""
    return sum(map(len, rows)) == dist.get_world_size()
