"""MG/OPT against the same optimizer alone, at equal work, on Peaks: python docs/experiments/peaks_mgopt.py OUT.jsonl

30 layers, 8 channels, exact propagation, full batch, WORK gradients of the whole network (an objective alone counts as
half of one, a coarser network as much less as it is shallower); 0, 1 or 2 coarser networks, m = 2, constant
prolongation, steps (1, 0, 4); several step sizes for each, so that none is judged by another's best. One JSON object
per run is appended to OUT.jsonl; runs that are there already are not made again.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from lpgpu.train import find_recipe
from lpgpu.train.loop.trainer import Trainer

WORK = 100
SEEDS = range(5)
RATES = {"sgd": (0.1, 0.3, 1.0), "adam": (0.01, 0.03)}


def settings():
    """All settings, seed after seed."""
    for seed in SEEDS:
        for optimizer, rates in RATES.items():
            for rate in rates:
                for mgopt in (0, 1, 2):
                    yield {"seed": seed, "optimizer": optimizer, "learning_rate": rate, "mgopt": mgopt}


def run(setting: dict) -> dict:
    """Train until the work is done; training loss and validation accuracy against work."""
    recipe = find_recipe("peaks")
    options = replace(recipe.defaults, **setting, mgopt_steps=(1, 0, 4), solver="serial", device="cpu")
    trainer, work, history = Trainer(recipe, options), 0.0, []
    while work < WORK:
        record = trainer.run_epoch(lambda _: None)
        history.append([round(work, 2), round(record["train_loss"], 5), record["test_accuracy"]])
        work += record["work_units"]
    _, loss, accuracy = history[-1]  # the loss is that before the last step
    return {**setting, "work": work, "loss": loss, "accuracy": accuracy, "steps": len(history), "history": history[::5]}


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    there = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for setting in settings():
        if not any(setting.items() <= record.items() for record in there):
            result = run(setting)
            with out.open("a") as file:
                file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
