"""What a recipe is: a network, a data set, and options that work."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lpgpu.data import Dataset
from lpgpu.nn.solver_module import SolverModule, solver_modules
from lpgpu.train.setup.metric import ACCURACY, Metric
from lpgpu.train.setup.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is trained: a classification, or with a `loss` and a `metric` for it, something else.

    Attributes:
        network: maps inputs `[batch, ...]` to class scores `[batch, classes]`, or in a regression to what is asked for.
        dataset: inputs and labels.
        loss: (scores, labels) → mean loss, a scalar.
        metric: what is reported besides the loss.
        seconds: what it took to prepare the data, by part, such as "disk" and "encoder".

    Raises:
        ValueError: for a metric without its function, or accuracy where labels are numbers.
    """

    network: nn.Module
    dataset: Dataset
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    metric: Metric = ACCURACY
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dtype = self.dataset.train_labels.dtype
        if self.metric == ACCURACY and dtype.is_floating_point:
            raise ValueError(
                f"labels are {dtype}, numbers and no classes, but the metric is accuracy; expected a loss and a metric "
                "for numbers, such as loss=nn.functional.mse_loss, metric=MEAN_SQUARED_ERROR"
            )
        if self.metric.of is None:
            raise ValueError(f"the metric {self.metric.name} has no function `of`; expected (scores, labels) → [batch]")

    @property
    def propagated(self) -> list[SolverModule]:
        """The parts of `network` that are solved, in order: their solver is exchanged, their solves are recorded."""
        return solver_modules(self.network)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named way to build a `Problem`.

    >>> def build(options: TrainOptions) -> Problem:
    ...     from lpgpu.data import load_peaks
    ...     layers = LayerParallel(None, lambda: nn.Linear(2, 2), 8, 1.0, solver=options.layer_solver())
    ...     return Problem(network=nn.Sequential(layers, nn.Linear(2, 5)), dataset=load_peaks(options.seed))
    >>> recipe = Recipe(name="mine", summary="a small one", defaults=TrainOptions(epochs=1), build=build)
    >>> len(recipe.build(recipe.defaults).propagated)
    1

    Attributes:
        name: what the command line calls it.
        summary: one line of help.
        defaults: the options that reproduce what the recipe promises; a subclass may add options of its own.
        build: options → problem, its initial weights drawn from torch's global generator.
        prepare: called with the options before a run begins: whoever needs data files looks for them here, so that a
            run without data leaves nothing behind. Raises `InputError` or `DataError`.
    """

    name: str
    summary: str
    defaults: TrainOptions
    build: Callable[..., Problem]
    prepare: Callable[[Any], object] = lambda options: None
