"""What a run shows of its progress: a bar on a terminal; in a file or a pipe, a line now and then."""

import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.reports.console import console, tell
from lpgpu.train.runs.metrics import Record, RunningMean

REFRESH = 0.25  # seconds between looks at the loss, each of which waits for the device
LINES = 10.0  # seconds between lines


class Progress:
    """Moves on with every batch, and now and then shows the epoch's mean loss, metric and rate so far."""

    def __init__(self, name: str, trainer: Trainer):
        self.name, self.trainer = name, trainer
        self.steps = trainer.steps_per_epoch
        self.total, self.initial = trainer.options.epochs * self.steps, self._batches()
        # without a terminal the bar is disabled, and does nothing
        shape = {"unit": "batch", "dynamic_ncols": True, "disable": None, "file": console}
        self.bar = tqdm(desc=name, total=self.total, initial=self.initial, **shape)
        self.begun = self.due = time.monotonic()
        self.counted = trainer.measures.running.examples  # of this epoch's examples
        self.examples, self.looked = 0, self.begun  # those since the last look, and when that was

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def batch(self, running: RunningMean) -> None:
        """One more batch is done, which `running` has counted in; after the epoch's last one the test begins."""
        self.bar.update()
        self.examples += running.examples - self.counted
        self.counted = running.examples
        now, last = time.monotonic(), self.trainer.measures.batches == self.steps
        if now >= self.due or (last and not self.bar.disable):
            loss, figure = running.values()
            rate = self.examples / max(now - self.looked, 1e-9)
            self.examples, self.looked = 0, now
            doing = "testing" if last else f"{rate:.0f} examples/s"
            self._show(f"epoch {self.trainer.epoch + 1}, {self._reached(loss, figure)}, {doing}", now)

    def epoch(self, record: Record) -> None:
        """An epoch is finished; `record` is what it has measured."""
        self.counted = 0
        now = time.monotonic()
        if now >= self.due or not self.bar.disable or self.trainer.epoch == self.trainer.options.epochs:
            metric = self.trainer.problem.metric
            trained = self._reached(record["train_loss"], record[f"train_{metric.key}"])
            tested = f"test {metric.short} {metric.text(record[f'test_{metric.key}'], 1)}"
            self._show(f"epoch {record['epoch']}, {trained}, {tested}", now)

    def _reached(self, loss: float, figure: float) -> str:
        metric = self.trainer.problem.metric
        of_metric = f"{metric.short} {metric.text(figure, 1)}"
        return of_metric if metric.is_loss else f"loss {loss:.3f}, {of_metric}"

    def _show(self, text: str, now: float) -> None:
        if not self.bar.disable:
            self.due = now + REFRESH
            self.bar.set_postfix_str(text)
            return
        self.due = now + LINES
        tell(
            tqdm.format_meter(
                self._batches(),
                self.total,
                now - self.begun,
                ncols=0,
                prefix=self.name,
                unit="batch",
                initial=self.initial,
                postfix=text,
            )
        )

    def _batches(self) -> int:
        """Those that are done, of all epochs."""
        return self.trainer.epoch * self.steps + self.trainer.measures.batches
