"""What every data set is to the rest of the library."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A classification problem in memory, or a regression.

    `*_inputs` are floats `[n, ...]`, `*_labels` int64 `[n]` with values 0 … `classes` − 1, or where `classes` is 0 the
    numbers to be predicted, floats `[n, ...]`. `on_disk`: inputs are too many for the memory; they are mapped files,
    and read batch by batch.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int = 0
    on_disk: bool = False

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on `device`; inputs that are on the disk stay there."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith(("_inputs", "_labels"))}
        moved = {name: t.to(device) for name, t in tensors.items() if not (self.on_disk and name.endswith("_inputs"))}
        return replace(self, **moved)
