"""What a recipe is: a network, a data set, and options that work."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from lpgpu import LayerParallel
from lpgpu.data import Dataset
from lpgpu.train.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is trained.

    Attributes:
        network: maps inputs `[batch, ...]` to class scores `[batch, classes]`.
        layers: the layer-parallel part of `network`: its solver is exchanged, its solves are recorded.
        dataset: inputs and labels.
        loss: (scores, labels) → mean loss, a scalar.
    """

    network: nn.Module
    layers: LayerParallel
    dataset: Dataset
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named way to build a `Problem`.

    Attributes:
        name: what the command line calls it.
        summary: one line of help.
        defaults: the options that reproduce what the recipe promises; a subclass may add options of its own.
        build: options → problem, its initial weights drawn from torch's global generator.
    """

    name: str
    summary: str
    defaults: TrainOptions
    build: Callable[..., Problem]
