"""Gradient bias against cycles during training: python docs/experiments/inexactness.py RECIPE SEED [EPOCHS] >> OUT

The recipe is trained with its own solver. Before every PROBE-th step, on that step's batch, gradients with 1, 2, 3 and
4 forward cycles (as many adjoint ones less the recipe's difference, at least one) are held against the serial one.
One JSON object per probe: step, α, ‖∇F‖, and the bias ‖g̃ − ∇F‖ by cycles.
"""

import json
import sys
from dataclasses import replace

import torch

from lpgpu import MGRIT, Serial
from lpgpu.train import find_recipe
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.methods.control import Control, Fixed, Moment
from lpgpu.train.runs.metrics import Record

PROBE = 23
CYCLES = (1, 2, 3, 4)


class Watch(Fixed):
    """Changes nothing, and measures the bias."""

    def before_step(self, moment: Moment) -> Record | None:
        if moment.step % PROBE:
            return None
        exact = moment.probe(Serial()).gradient
        biases = {}
        for cycles in CYCLES:
            solver = self.with_cycles(cycles)
            assert isinstance(solver, MGRIT)
            biases[cycles] = float(torch.linalg.vector_norm(moment.probe(solver).gradient - exact))
        norm = float(torch.linalg.vector_norm(exact))
        return {"step": moment.step, "rate": moment.learning_rate, "gradient": norm, "bias": biases}


def main() -> None:
    torch.set_num_threads(1)
    recipe, seed = find_recipe(sys.argv[1]), int(sys.argv[2])
    epochs = int(sys.argv[3]) if len(sys.argv) > 3 else recipe.defaults.epochs
    options = replace(recipe.defaults, seed=seed, epochs=epochs, device="cpu")
    trainer = Trainer(recipe, options)
    watch: Control = Watch(options.layer_solver())
    trainer.control = watch
    for _ in range(epochs):
        for decision in trainer.run_epoch(lambda _: None)["decisions"]:
            print(json.dumps({"recipe": recipe.name, "seed": seed, **decision}), flush=True)


if __name__ == "__main__":
    main()
