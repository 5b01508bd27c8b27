"""Errors of MGRIT on a trained GRU, of two solvers side by side: states, adjoint, gradients, against exact solves.

    python bench/trained_gru.py CHECKPOINT [--data-dir DIR] [--batch 100] [--batches 5] [--compare delta] [--json FILE]

CHECKPOINT is the checkpoint.pt of a run of a recurrent recipe, such as `lpgpu train uci-har --epochs 5`. Measured on
training examples drawn at random (seed 0), in fp64, with the recipe's loss, once with the trained weights and once with
those that the run began with. All errors are relative 2-norms of the difference to `Serial()`:

    states      h_1 … h_T of the last layer
    adjoint     ∂loss/∂x_k of the input, all k: W_ihᵀ of the gates' gradients, which are linear in λ_{k+1}
    W_hh l      ∂loss/∂W_hh of layer l
    parameters  ∂loss/∂θ, all parameters in one vector

Each cell is `without Δ / with Δ`, or by `--compare guess` of the linear operator `constant guess / free guess`, medians
over the batches; `(k)` behind it: on k of them the second was worse. Cycles forward/adjoint as in the column "its",
FCF-relaxation.
"""

import argparse
import json
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, Serial
from lpgpu.train import GRUOptions, find_recipe
from lpgpu.train.loop.trainer import seed_everything

GRIDS = ((2, 4), (2, 8), (2, 16), (3, 4))
ITERATIONS = ((1, 1), (2, 1), (2, 2))
COMPARED = {
    "delta": ({"delta": "none"}, {"delta": "diagonal"}),
    "guess": ({"coarse_operator": "linear", "initial_guess": "constant"}, {"coarse_operator": "linear"}),
}

Quantities = dict[str, Tensor]


def load(checkpoint: Path, data_dir: Path | None) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """The network as it began and as it was trained, in fp64, and the training inputs and labels."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    changes = {"device": "cpu"} | ({} if data_dir is None else {"data_dir": str(data_dir)})
    recipe = find_recipe(state["config"]["recipe"])
    options = type(recipe.defaults).from_json(state["config"]["options"] | changes)
    if not isinstance(options, GRUOptions):
        raise SystemExit(f"{checkpoint} is of the recipe {recipe.name}, which trains no GRU")
    networks = []
    for _ in range(2):
        seed_everything(options.seed)
        problem = recipe.build(options)
        networks.append(problem.network.double())
    networks[1].load_state_dict(state["network"])
    print(f"recipe {recipe.name}, {options.network}, seed {options.seed}, {state['epoch']} epochs, {options.solver}")
    return networks[0], networks[1], problem.dataset.train_inputs.double(), problem.dataset.train_labels


def quantities(network: nn.Module, solver: MGRIT | Serial, x: Tensor, labels: Tensor) -> Quantities:
    """States, adjoint and gradients of one batch, propagated by `solver`."""
    gru = network.gru
    if not isinstance(gru, GRU):
        raise TypeError(f"network.gru is {type(gru).__name__}; expected a GRU")
    gru.solver = solver
    network.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    states: list[Tensor] = []
    with gru.register_forward_hook(lambda module, inputs, outputs: states.append(outputs[0].detach())):
        nn.functional.cross_entropy(network(x), labels).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    w_hh = {f"W_hh {layer}": gradients[f"gru.weight_hh_l{layer}"] for layer in range(gru.num_layers)}
    if x.grad is None:
        raise RuntimeError("the loss does not depend on the input")
    parameters = torch.cat([gradient.flatten() for gradient in gradients.values()])
    return {"states": states[0], "adjoint": x.grad, **w_hh, "parameters": parameters}


def errors(network: nn.Module, exact: Quantities, solver: MGRIT, x: Tensor, labels: Tensor) -> dict[str, float]:
    """Relative error of each quantity."""
    inexact = quantities(network, solver, x, labels)
    return {name: float((inexact[name] - value).norm() / value.norm()) for name, value in exact.items()}


def cell(first: list[float], second: list[float]) -> str:
    """Both medians, and how often the second was worse."""
    worse = sum(other > one for one, other in zip(first, second, strict=True))
    return f"{median(first):.1e} / {median(second):.1e}" + (f" ({worse})" if worse else "")


def measure(network: nn.Module, batches: list[tuple[Tensor, Tensor]], compared: str) -> list[dict]:
    """All settings on all batches; prints a row of the table for each setting."""
    exact = [quantities(network, Serial(), *batch) for batch in batches]
    print("| levels | m | its | " + " | ".join(exact[0]) + " |")
    print("|---" * (3 + len(exact[0])) + "|")
    rows = []
    for levels, m in GRIDS[:3] if compared == "guess" else GRIDS:
        for forward, adjoint in ITERATIONS:
            solver = {"levels": levels, "coarsening": m, "iterations": forward, "adjoint_iterations": adjoint}
            first, second = (
                [errors(network, e, MGRIT(**solver, **choice), *b) for e, b in zip(exact, batches, strict=True)]
                for choice in COMPARED[compared]
            )
            rows.append({**solver, "compared": compared, "first": first, "second": second})
            cells = " | ".join(cell([e[name] for e in first], [e[name] for e in second]) for name in exact[0])
            print(f"| {levels} | {m} | {forward}/{adjoint} | {cells} |", flush=True)
    return rows


def main() -> None:
    """Print the two tables, and write their rows as JSON where asked to."""
    parser = argparse.ArgumentParser(description="errors of MGRIT on a trained GRU, of two solvers side by side")
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of a run")
    parser.add_argument("--data-dir", type=Path, help="where the recipe's data lie [as in the run]")
    parser.add_argument("--batch", type=int, default=100, help="training examples in a batch [%(default)s]")
    parser.add_argument("--batches", type=int, default=5, help="batches, without an example in common [%(default)s]")
    parser.add_argument("--compare", choices=COMPARED, default="delta", help="what the two differ in [%(default)s]")
    parser.add_argument("--json", type=Path, help="where to write all rows as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begun, trained, inputs, labels = load(arguments.checkpoint, arguments.data_dir)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).split(arguments.batch)
    batches = [(inputs[drawn], labels[drawn]) for drawn in order[: arguments.batches]]
    tables = {}
    for name, network in (("trained", trained), ("at the start", begun)):
        largest = max(float(p.detach().abs().max()) for key, p in network.named_parameters() if "weight_hh" in key)
        print(f"\n## {name}: {len(batches)} batches of {arguments.batch}, largest |W_hh| {largest:.2f}\n")
        tables[name] = measure(network, batches, arguments.compare)
    if arguments.json:
        arguments.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
