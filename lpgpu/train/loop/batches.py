"""Which training examples make up each batch: their order, and of several data ranks, whose they are."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lpgpu.data import Dataset
from lpgpu.profiling import Timings
from lpgpu.train.setup.options import TrainOptions


class Batches:
    """The batches of every epoch. Their order follows from the seed and the epoch alone.

    Attributes:
        size: examples per batch; the last of an epoch may be smaller. With lbfgs, all of them.
    """

    def __init__(self, data: Dataset, options: TrainOptions):
        examples = len(data.train_labels)
        self.data, self.options, self.device = data, options, options.torch_device()
        self.size = examples if options.optimizer == "lbfgs" else min(options.batch_size, examples)
        self._shuffle, self._drawn = torch.Generator().manual_seed(options.seed), 0

    def __len__(self) -> int:
        """Batches in one pass over the training set."""
        return -(-len(self.data.train_labels) // self.size)

    def first(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the first training examples, in the order of the data set."""
        return self.data.train_inputs[: self.size].to(self.device), self.data.train_labels[: self.size]

    def of_epoch(self, epoch: int, done: int, timings: Timings) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Those of an epoch, counted from 0, after the first `done`; what fetching them takes is timed.

        Of each the inputs and labels that are this data rank's, and the weight of their mean loss.
        """
        for batch in self._order(epoch).split(self.size)[done:]:
            chosen, weight = self.options.ranks.shard(batch)
            with timings("disk" if self.data.on_disk else "data"):
                where = chosen.to(self.data.train_inputs.device)
                inputs = self.data.train_inputs[where].to(self.device)
                labels = self.data.train_labels[chosen.to(self.device)]
            yield inputs, labels, weight

    def _order(self, epoch: int) -> Tensor:
        """Where the examples of an epoch lie: for epoch e, the e-th permutation drawn from the seed."""
        if self._drawn > epoch:
            self._shuffle, self._drawn = torch.Generator().manual_seed(self.options.seed), 0
        order = torch.empty(0, dtype=torch.int64)
        while self._drawn <= epoch:
            order = torch.randperm(len(self.data.train_labels), generator=self._shuffle)
            self._drawn += 1
        return order
