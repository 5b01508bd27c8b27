"""MG/OPT against the same optimizer alone, at equal work, on Fashion-MNIST:

    python docs/experiments/fashion_mgopt.py DATA_DIR OUT.jsonl

The recipe's network of 32 layers, exact propagation, batches of 100 of the first 20 000 images, SGD with momentum.
Every run gets WORK gradients of the whole network (an objective alone counts as half of one, a coarser network as much
less as it is shallower) and is then tested on all 10 000 test images; 0, 1 or 2 coarser networks, m = 2, constant
prolongation, steps (1, 0, 4); each for several step sizes, so that none is judged by another's best. One JSON object
per run is appended to OUT.jsonl; runs that are there already are not made again.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from lpgpu.train import find_recipe
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.runs.metrics import RunningMean

WORK = 200
SEEDS = range(5)
RATES = (0.02, 0.05)


class WorkDone(Exception):
    """The run has used up its work."""


def settings():
    """All settings, one step size after the other."""
    for rate in RATES:
        for seed in SEEDS:
            for mgopt in (0, 1, 2):
                yield {"learning_rate": rate, "seed": seed, "mgopt": mgopt}


def run(setting: dict, data_dir: Path) -> dict:
    """Train until the work is done; the training loss against work, and the test accuracy at the end."""
    recipe = find_recipe("fashion-mnist")
    options = replace(
        recipe.defaults,
        **setting,
        data_dir=data_dir,
        train_images=20_000,
        batch_size=100,
        optimizer="sgd",
        mgopt_steps=(1, 0, 4),
        nested_coarsening=2,
        solver="serial",
        device="cpu",
        epochs=100,
    )
    trainer, history = Trainer(recipe, options), []

    def on_step(running: RunningMean) -> None:
        work = trainer.measures.work
        history.append([round(work, 2), round(running.values()[0], 5)])
        if work >= WORK:
            raise WorkDone

    try:
        while True:
            trainer.run_epoch(on_step)
    except WorkDone:
        loss, accuracy = trainer.evaluate()
    return {
        **setting,
        "work": history[-1][0],
        "steps": len(history),
        "loss": loss,
        "accuracy": accuracy,
        "history": history[::5],
    }


def main() -> None:
    torch.set_num_threads(1)
    data_dir, out = Path(sys.argv[1]), Path(sys.argv[2])
    there = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for setting in settings():
        if not any(setting.items() <= record.items() for record in there):
            result = run(setting, data_dir)
            with out.open("a") as file:
                file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
