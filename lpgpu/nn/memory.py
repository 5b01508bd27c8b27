"""How much memory a computation takes at most."""

import gc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


def peak_bytes(compute: Callable[[], object], device: torch.device) -> int:
    """The most bytes that `compute()` has at one time on `device`, beside what there was before.

    On a GPU by the caching allocator's own count, elsewhere by `Allocations`.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        compute()
        return torch.cuda.max_memory_allocated(device) - before
    with Allocations() as allocations:
        compute()
    return allocations.peak


class Allocations(TorchDispatchMode):
    """Counts the bytes of the storages that operations within the context have made and that are still alive.

    Sees through autograd and vmap to the operations that really run.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bytes: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    @property
    def live(self) -> int:
        """Bytes alive now."""
        self._bytes = {key: entry for key, entry in self._bytes.items() if not entry[0].expired()}
        return sum(size for _, size in self._bytes.values())

    def reset_peak(self) -> int:
        """Start a new peak from the bytes alive now; returns these."""
        gc.collect()
        self.peak = self.live
        return self.peak

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {storage_of(tensor).cdata for tensor in tensors_in((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        made = [tensor for tensor in tensors_in(result) if storage_of(tensor).cdata not in known]
        for tensor in made:
            reference = storage_of(tensor)
            self._bytes[reference.cdata] = (reference, tensor.untyped_storage().nbytes())
        if made:
            self.peak = max(self.peak, self.live)
        return result


def tensors_in(tree: object) -> Iterator[Tensor]:
    """The tensors among an operation's arguments or results."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for branch in tree:
            yield from tensors_in(branch)
    elif isinstance(tree, dict):
        yield from tensors_in(list(tree.values()))


def storage_of(tensor: Tensor) -> StorageWeakRef:
    """A reference to the tensor's storage that does not keep it alive."""
    return StorageWeakRef(tensor.untyped_storage())
