"""What a network is judged by besides its loss: accuracy, a mean squared error, or a figure of one's own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of every example, reported as its mean.

    In records and summaries it is called by its `key`: test_accuracy, test_mean_squared_error.

    >>> ACCURACY.text(0.875), ACCURACY.axis
    ('87.50%', 'accuracy')
    >>> MEAN_SQUARED_ERROR.text(1 / 6), MEAN_SQUARED_ERROR.axis
    ('0.167', 'mean squared error\\n(lower is better)')

    Attributes:
        name: what it is called in reports; `short`: in a line of progress.
        of: (scores, labels) → one figure for each example, `[batch]`. None, where only reports are to be made of it.
        percent: whether it is a share in 0 … 1, shown as a percentage, or a number in the unit of the labels.
        higher_is_better: which way training should move it.
        is_loss: whether it is the loss itself, which reports then show once.
        baseline: what an answer that ignores the input reaches, if that is to be shown; `baseline_name`: which answer.
    """

    name: str
    short: str
    of: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, compare=False)
    percent: bool = True
    higher_is_better: bool = True
    is_loss: bool = False
    baseline: float | None = None
    baseline_name: str = "baseline"

    @property
    def key(self) -> str:
        """The name, as keys of records have it."""
        return self.name.replace(" ", "_")

    @property
    def axis(self) -> str:
        """The name for an axis, and which way is better where that is not up."""
        return self.name if self.higher_is_better else f"{self.name}\n(lower is better)"

    @property
    def baseline_words(self) -> str:
        """What follows a figure that is to be compared with the baseline."""
        return "" if self.baseline is None else f"; {self.baseline_name}: {self.text(self.baseline)}"

    def text(self, value: float, decimals: int = 2) -> str:
        """A figure for people: a percentage with so many decimals, or three significant digits."""
        return f"{value:.{decimals}%}" if self.percent else f"{value:.3g}"

    def spread(self, value: float) -> str:
        """A standard deviation for people, as `text` has the mean."""
        return f"{100 * value:.2f}" if self.percent else f"{value:.2g}"

    def to_record(self) -> dict[str, Any]:
        """What a record says of it, so that reports need nothing else; nothing of `ACCURACY`."""
        if self == ACCURACY:
            return {}
        return {"metric": {name: value for name, value in vars(self).items() if name != "of"}}

    @staticmethod
    def from_record(record: dict[str, Any]) -> "Metric":
        """The inverse of `to_record`, without `of`."""
        return Metric(**record["metric"]) if "metric" in record else ACCURACY


def right_answers(scores: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest of scores `[batch, classes]` is that of the label `[batch]`, else 0; float64 `[batch]`.

    Of several predictions an example, scores `[batch, classes, ...]`, labels `[batch, ...]`, the share of right ones.
    """
    return _mean_of_each((scores.argmax(dim=1) == labels).double())


def squared_error(scores: Tensor, labels: Tensor) -> Tensor:
    """(scores − labels)², the mean over the numbers of each example: float64 `[batch]` of two tensors `[batch, ...]`.

    Raises:
        ValueError: where their shapes differ, which would broadcast.
    """
    if scores.shape != labels.shape:
        raise ValueError(f"scores are {tuple(scores.shape)}, labels {tuple(labels.shape)}; expected the same shape")
    return _mean_of_each((scores.double() - labels).square())


def _mean_of_each(figures: Tensor) -> Tensor:
    return figures if figures.dim() == 1 else figures.flatten(1).mean(1)


ACCURACY = Metric(name="accuracy", short="acc", of=right_answers)
MEAN_SQUARED_ERROR = Metric(
    name="mean squared error", short="mse", of=squared_error, percent=False, higher_is_better=False, is_loss=True
)
