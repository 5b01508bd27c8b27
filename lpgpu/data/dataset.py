"""What every data set is to the rest of the library."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A classification problem in memory.

    `*_inputs` are floats `[n, ...]`, `*_labels` int64 `[n]` with values 0 … `classes` − 1.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on `device`."""
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "classes"}
        return replace(self, **tensors)
