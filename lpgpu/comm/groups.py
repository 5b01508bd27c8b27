"""New process groups of torch.distributed, and a group of gloo's that is nobody else's."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from lpgpu.comm.watchdog import limit

_MARGIN = 30.0  # seconds: gloo's own timeout comes after ours, which can say more


def gloo_beside(group: Any) -> Any:
    """Gloo for the ranks of a process group, met in its store. Collective.

    No process group of torch.distributed: where only some ranks make one, its name depends on how many groups this
    process has made before, and ranks that have made different numbers would wait for each other.
    """
    store = dist.PrefixStore("lpgpu/gloo", store_of(group))
    return dist.ProcessGroupGloo(store, group.rank(), group.size(), timeout=timedelta(seconds=limit() + _MARGIN))


def new_groups(rows: Sequence[Sequence[int]], **options: Any) -> Any:
    """Make process groups of these global ranks, in this order, and return that which this rank is in.

    Collective over the ranks of all `rows`, which call with the same arguments. Where these are all ranks of the job,
    each makes every group, as NCCL's communicators need it that are split from one another; else each makes its own.
    """
    together = covers_the_job(rows)
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


def number_of_groups() -> int:
    """How many process groups this process is in. Some ranks can make a group on their own if theirs are equal."""
    return len(distributed_c10d._world.pg_names)


def store_of(group: Any) -> Any:
    """The store in which the ranks of a process group met."""
    return group.get_group_store()
