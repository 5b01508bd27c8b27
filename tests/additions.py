"""What the recipes of CONTRIBUTING add, one example of each; `test_contributing` makes these additions."""

from dataclasses import dataclass, field

from tests.added_kernel import COMPILE, KERNEL


@dataclass(frozen=True)
class Addition:
    """What somebody adds.

    Attributes:
        files: new ones; `lines`: for files there are, the text that comes after the one named; "": at the end.
        commands: of Python, in the copy, which must succeed.
    """

    files: dict[str, str] = field(default_factory=dict)
    lines: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)


CYCLE = Addition(
    lines={
        "lpgpu/mgrit/cycle.py": [
            (
                "",
                """

def d_cycle(levels: Levels, **options) -> Tensor | None:
    return _cycle(levels, _two_v_cycles, **options)


def _two_v_cycles(levels: Levels) -> None:
    v_cycle(levels)
    if len(levels) > 1:
        v_cycle(levels, f_points_current=True)


CYCLES["D"] = d_cycle
""",
            )
        ],
        "lpgpu/mgrit/options.py": [
            ('Cycle = Literal["V", "F", "W"', ', "D"'),
            ("twice from every visit of the next finer one", '; or "D", two V-cycles on the coarse levels'),
        ],
        "tests/settings.py": [('VISITS = {"V": lambda level: 1', ', "D": lambda level: min(level, 1) + 1')],
        "CHANGELOG.md": [("# Changelog\n", "\n- D-cycles.\n")],
    },
    commands=[
        ["-m", "pytest", "-q", "-x", "tests/mgrit/test_counts.py", "tests/mgrit/test_options.py"],
        ["-m", "pytest", "-q", "-x", "tests/mgrit/test_exactness.py", "-k", "enough_cycles"],
        ["-m", "lpgpu.cli", "train", "toy", "--cycle", "D"],
    ],
)

RECIPE = Addition(
    files={
        "lpgpu/data/my.py": '''
"""Two clouds of points of the plane."""

import torch

from lpgpu.data.dataset import Dataset


def load_clouds(seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(60) % 2
    points = torch.randn(60, 2, generator=generator) + 4 * labels[:, None]
    return Dataset(
        train_inputs=points[:40], train_labels=labels[:40], test_inputs=points[40:], test_labels=labels[40:], classes=2
    )
''',
        "lpgpu/train/recipes/my.py": '''
"""Two clouds, told apart."""

from torch import nn

from lpgpu.data.my import load_clouds
from lpgpu.nn import DenseBlock
from lpgpu.train.setup.networks import ODEOptions
from lpgpu.train.setup.recipe import Problem, Recipe


def build(options: ODEOptions) -> Problem:
    network = nn.Sequential(options.stack(lambda: DenseBlock(2)), nn.Linear(2, 2))
    return Problem(network=network, dataset=load_clouds(options.seed))


RECIPE = Recipe(
    name="toy",
    summary="two clouds",
    defaults=ODEOptions(epochs=5, batch_size=10, learning_rate=0.05, layers=8, levels=2, device="cpu", threads=1),
    build=build,
)
''',
    },
    commands=[["-m", "lpgpu.cli", "train", "toy", "--run-dir", "run"]],
)

BLOCK = Addition(
    files={
        "kernels/my_step/__init__.py": '''
"""u + Δt a ⊙ u."""

from lpgpu.kernels.my_step.reference import advance, vjp

__all__ = ["advance", "vjp"]
''',
        "kernels/my_step/reference.py": '''
"""In plain PyTorch. u, λ [K, B, H]; a [K, H]."""

from torch import Tensor


def advance(u: Tensor, a: Tensor, dt: float, out: Tensor) -> None:
    """out = u + Δt a ⊙ u."""
    out.copy_(u + dt * a[:, None] * u)


def vjp(lam: Tensor, a: Tensor, dt: float, out: Tensor) -> None:
    """out = λ + Δt a ⊙ λ."""
    out.copy_(lam + dt * a[:, None] * lam)
''',
        "lpgpu/nn/propagators/my.py": '''
"""Layers of `ScaleBlock`."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lpgpu.kernels import my_step
from lpgpu.nn.propagators.layers import Layers, Linearisation


class ScaleLayers(Layers):
    has_diagonal = True

    def __init__(self, a: Tensor, dt: float) -> None:
        self.a = a.detach()
        self.dt = dt

    def advance(self, layers, u: Tensor, out: Tensor, *, keep=False, diagonal=None, decay=None) -> Any:
        my_step.advance(u, self.a[layers], self.dt, out)
        if diagonal is not None:
            diagonal.copy_((1 + self.dt * self.a[layers])[:, None].expand_as(u))

    def linearise(self, layers, u: Tensor, kept: Any = None) -> Linearisation:
        return _Linearised(self, self.a[layers], u)


class _Linearised(Linearisation):
    def __init__(self, stack: ScaleLayers, a: Tensor, u: Tensor) -> None:
        self.stack, self.a, self.u = stack, a, u

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        my_step.vjp(lam, self.a, self.stack.dt, out)

    def diagonal(self, out: Tensor) -> None:
        out.copy_((1 + self.stack.dt * self.a)[:, None].expand_as(out))

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        return (self.stack.dt * (lam * self.u).sum(1),)
''',
    },
    lines={
        "lpgpu/nn/blocks.py": [
            (
                "",
                """

class ScaleBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(width))

    def forward(self, u: Tensor) -> Tensor:
        return self.a * u
""",
            ),
            ("import torch.nn.functional as F\n", "import torch\n"),
        ],
        "lpgpu/nn/propagators/__init__.py": [
            (
                "    call = call or Call()\n",
                """    if type(block) is ScaleBlock and form == "rhs" and scheme == "euler":
        return ScaleLayers(parameters["a"], dt)
""",
            ),
            ("from torch import Tensor, nn\n", "from lpgpu.nn.blocks import ScaleBlock\n"),
            (
                "from lpgpu.nn.propagators.layers import Layers, Linearisation\n",
                "from lpgpu.nn.propagators.my import ScaleLayers\n",
            ),
        ],
        "tests/nn/test_blocks.py": [
            (
                "",
                """

@pytest.mark.parametrize("delta", ["none", "diagonal"])
def test_scale_is_the_general_path(delta: str) -> None:
    from lpgpu import MGRIT
    from lpgpu.nn.blocks import ScaleBlock
    from lpgpu.nn.propagators.my import ScaleLayers

    class Alike(ScaleBlock):
        pass

    assert isinstance(layers_for(ScaleBlock(3), torch.zeros(2, 3)), ScaleLayers)
    solver = MGRIT(coarse_operator="rediscretised")  # "auto" depends on the kind of layer
    own, general = network(lambda: ScaleBlock(4), solver=solver), network(lambda: Alike(4), solver=solver)
    general.load_state_dict(own.state_dict())
    x, weight = inputs(), inputs()
    assert_same_derivatives(derivatives(own, x, weight), derivatives(general, x, weight))
    own.solver = exactly(delta=delta)
    assert_equals_serial(own, inputs())
""",
            )
        ],
    },
    commands=[["-m", "pytest", "-q", "-x", "tests/nn/test_blocks.py", "-k", "scale"]],
)

CELL = Addition(
    files={
        "lpgpu/nn/cells/my.py": '''
"""h⁺ = tanh(W_i x + b_i + W_h h + b_h)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.nn.cells.cell import Masks
from lpgpu.nn.cells.vmapped import VmappedCell


class TanhCell(VmappedCell):
    def __init__(self, of_input: tuple[Tensor, Tensor | None], named: dict[str, Tensor], masks: Masks) -> None:
        self.of_input, self.names = of_input, tuple(named)
        self.weights, self.masks = tuple(named.values()), masks

    def inputs(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.of_input)

    def step(self, x: Tensor, h: Tensor, weights: Sequence[Tensor], spans: int) -> Tensor:
        named = dict(zip(self.names, weights, strict=True))
        return torch.tanh(x + F.linear(h, named["weight_hh"], named.get("bias_hh")))
'''
    },
    lines={
        "lpgpu/nn/cells/__init__.py": [
            ("from lpgpu.nn.cells.module import ModuleCell\n", "from lpgpu.nn.cells.my import TanhCell\n"),
            ('__all__ = ["Cell"', ', "TanhCell"'),
        ],
        "lpgpu/nn/recurrent.py": [
            ("from lpgpu.nn.cells import Cell", ", TanhCell"),
            ("_FORMULAS = {nn.LSTMCell: LSTMCell", ", nn.RNNCell: TanhCell"),
        ],
        "tests/nn/test_recurrent.py": [
            (
                "",
                """

def test_tanh_cell_is_torchs() -> None:
    from lpgpu.nn import Recurrent

    cell, x = torch.nn.RNNCell(3, 4), torch.randn(20, 2, 3)
    states, h = [], torch.zeros(2, 4)
    for x_t in x:
        h = cell(x_t, h)
        states.append(h)
    expected = torch.autograd.grad(torch.stack(states).square().sum(), cell.parameters())
    output, h_n = Recurrent(cell, solver=MGRIT(levels=2, coarsening=4, iterations=5, adjoint_iterations=5))(x)
    came = torch.autograd.grad(output.square().sum(), cell.parameters())
    torch.testing.assert_close(output, torch.stack(states))
    torch.testing.assert_close(h_n, h)
    torch.testing.assert_close(came, expected, rtol=1e-4, atol=1e-5)
""",
            )
        ],
    },
    commands=[["-m", "pytest", "-q", "-x", "tests/nn/test_recurrent.py", "-k", "tanh_cell"]],
)

OPERATION = Addition(
    files=KERNEL,
    commands=[["-m", "pytest", "-q", "-x", "tests/kernels/interpreted/test_my_op.py"], ["-c", COMPILE]],
)

ADDITIONS = {
    "Add a block": BLOCK,
    "Add a recurrent cell": CELL,
    "Add a cycle": CYCLE,
    "Add a recipe": RECIPE,
    "Add a kernel": OPERATION,
}
