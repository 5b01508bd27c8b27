"""The records of a run for TensorBoard, where that is installed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.runs.metrics import Record
from lpgpu.train.setup.words import counted


@contextmanager
def tensorboard(folder: Path, trainer: Trainer) -> Iterator[Callable[[Record], None]]:
    """A function to call with every record: it writes its numbers below `folder`/tensorboard, or does nothing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield lambda record: None
        return
    name = f"level-{trainer.level}" if trainer.level else "training"
    writer = SummaryWriter(str(folder / "tensorboard" / name), purge_step=trainer.epoch + 1)
    try:
        yield lambda record: _write(writer, record)
    finally:
        writer.close()


def _write(writer, record: Record) -> None:
    for name, value in record.items():
        if isinstance(value, int | float) and name not in ("epoch", "level"):
            writer.add_scalar(name, value, record["epoch"])
    for part, seconds in record["seconds"].items():
        writer.add_scalar(f"seconds/{part}", seconds, record["epoch"])
    for solve in ("forward", "adjoint"):
        for cycle, norm in enumerate(record[f"{solve}_residuals"]):
            if norm is not None:
                writer.add_scalar(f"residuals/{solve} after {counted(cycle, 'cycle')}", norm, record["epoch"])
    writer.flush()
