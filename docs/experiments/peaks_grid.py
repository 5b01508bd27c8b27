"""Peaks with and without nested iteration over the published grid: python docs/experiments/peaks_grid.py OUT.jsonl

{5, 8} channels × Tikhonov {1e-5, 1e-7} × initial weights of the layers {0, 1e-6 × random} × seeds, exact propagation,
full batch, Adam with 1e-2. Equal work of WORK gradients of the finest network (30 layers) for both:

    not nested   WORK steps on 30 layers
    nested       STEPS steps on each of 2, 4, 8 and 15 layers, counted by depth, and what is left of WORK on 30 layers

One JSON object per run is appended to OUT.jsonl; runs that are there already are not made again.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from lpgpu.train import find_recipe
from lpgpu.train.loop.levels import deepest_level, options_of_level, refined, trainer_of_level
from lpgpu.train.loop.trainer import Trainer

WORK, STEPS = 400, 100
SEEDS = range(12)


def settings():
    """All settings of the grid, seed after seed, so that an interruption leaves whole seeds."""
    for seed in SEEDS:
        for channels in (8, 5):
            for tikhonov in (1e-5, 1e-7):
                for initial in (0.0, 1e-6):
                    for nested in (False, True):
                        yield {
                            "seed": seed,
                            "channels": channels,
                            "tikhonov": tikhonov,
                            "initial": initial,
                            "nested": nested,
                        }


def start_small(trainer: Trainer, initial: float) -> None:
    """Initial weights of the layers: `initial` times standard normal numbers."""
    with torch.no_grad():
        for theta in trainer.problem.propagated[0].parameters():
            theta.copy_(initial * torch.randn_like(theta))


def run(setting: dict) -> dict:
    """Train once; validation accuracy against work, and at the end."""
    recipe = find_recipe("peaks")
    options = replace(
        recipe.defaults,
        seed=setting["seed"],
        channels=setting["channels"],
        tikhonov=setting["tikhonov"],
        solver="serial",
        nested=64 if setting["nested"] else 0,
        nested_epochs=STEPS,
        device="cpu",
    )
    deepest = deepest_level(options)
    coarse = sum(STEPS * options_of_level(options, level).layers / options.layers for level in range(1, deepest + 1))
    options = replace(options, epochs=WORK - round(coarse))
    trainer = trainer_of_level(recipe, options, deepest)
    start_small(trainer, setting["initial"])
    work, history = 0.0, []
    while True:
        while trainer.epoch < trainer.options.epochs:
            record = trainer.run_epoch(lambda _: None)
            work += record["work_units"]
            history.append([round(work, 2), record["test_accuracy"], round(record["train_loss"], 5)])
        if trainer.level == 0:
            return {**setting, "work": work, "accuracy": history[-1][1], "history": history[::10]}
        trainer = refined(trainer, recipe, options)


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
