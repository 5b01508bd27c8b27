"""Launching the GRU's marches in CUDA C++: all steps of a sweep in one launch, W spread over many blocks' registers.

For widths that no single block can hold W of. A launch has `ranks` blocks for the units of the state, each with
`units` of them, times `groups` that share the tiles of 16 rows. The blocks are a grid, all resident at once, that
exchanges states through the second-level cache; or the ranks are a cluster, and exchange them through shared memory.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lpgpu.kernels.cuda import choice, modules
from lpgpu.kernels.cuda.swept import SWEPT, last_steps, swept
from lpgpu.kernels.devices import arch_of, multiprocessors_of, shared_limit
from lpgpu.kernels.dispatch import launches, say_once
from lpgpu.kernels.implicit_gru.reference import Cell, Coefficients
from lpgpu.kernels.precision import Precision, dot_precision
from lpgpu.kernels.sweep import Sweep, Terms

TILE_ROWS = 16
CHUNK_UNITS = {"bf16": 16, "tf32": 8, "tf32x3": 8}
"""Operand → units that one matrix instruction sums over."""
GRIDS = {
    ("bf16", torch.bfloat16): (
        (8, 2, 8),
        (8, 2, 16),
        (8, 2, 32),
        (8, 4, 8),
        (8, 4, 16),
        (8, 4, 32),
        (8, 8, 8),
        (8, 8, 16),
    ),
    ("bf16", torch.float32): ((8, 2, 8), (8, 2, 16), (8, 4, 8), (8, 4, 16), (8, 8, 8), (8, 8, 16)),
    ("tf32", torch.float32): ((8, 4, 8), (8, 4, 16), (8, 8, 8), (8, 8, 16), (8, 16, 8)),
    ("tf32x3", torch.float32): ((8, 4, 8), (8, 4, 16), (8, 8, 8)),
}
"""(operand, dtype) → (warps, chunks, units) of the kernels of grids: for widths up to warps · chunks · CHUNK_UNITS."""
CLUSTERS = {("bf16", torch.bfloat16): ((4, 1, 8, 8), (4, 2, 8, 16))}
"""The same with the blocks of a cluster, whose `units` · blocks must suffice too."""
MEASURED = {
    "bf16": ((64, 127, 16, 224), (128, 255, 16, 144), (256, 1024, 64, 128), (256, 512, 256, 144)),
    "tf32": ((128, 511, 16, 144), (512, 1024, 64, 224)),
    "tf32x3": ((64, 127, 16, 192), (128, 512, 64, 112)),
}
"""Operand → (least width, most, most rows, least steps) where both marches of one interval were faster than Triton's.

bench/results/h100-graphs/cuda.jsonl has 256 steps, each row right. A march of fewer steps s takes no longer than one of
256, Triton's at least s/256 of its time: hence the least steps.
"""
_STORAGE = {torch.bfloat16: "bf16", torch.float32: "fp32"}
_SOURCE = {torch.bfloat16: "implicit_gru/gru_march", torch.float32: "implicit_gru/gru_march_fp32"}

Kind = Literal["forward", "adjoint"]

ARGUMENTS = np.dtype(
    [
        ("width", np.int32), ("rows", np.int32), ("steps", np.int32), ("words", np.uint64),
        ("num_rows", np.int32), ("batch", np.int32), ("all_steps", np.int32), ("last_steps", np.int32),
        ("source", SWEPT), ("target", SWEPT), ("g", SWEPT), ("delta", SWEPT), ("anchors", SWEPT),
        ("x_or_c", SWEPT), ("a", SWEPT),
        ("w", np.uint64), ("b", np.uint64), ("w_row", np.int64), ("dt", np.float32), ("implicit", np.int32),
    ],
    align=True,
)  # fmt: skip
"""`GruArguments` of gru_cells.cuh, byte for byte."""


def _operand(dtype: torch.dtype, precision: Precision) -> str:
    return "bf16" if dtype == torch.bfloat16 else precision


@dataclass(frozen=True)
class Plan:
    """How a march is launched: the kernel's sizes, and ranks × groups blocks, in clusters of `ranks` or in a grid."""

    operand: str
    warps: int
    chunks: int
    units: int
    ranks: int
    groups: int
    tiles: int
    in_clusters: bool

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps

    @property
    def turns(self) -> int:
        """Tiles that a block takes one after the other in every step."""
        return -(-self.tiles // self.groups)

    @property
    def suffix(self) -> str:
        """Of the kernel's name."""
        return f"w{self.warps}_c{self.chunks}_u{self.units}" + (f"_r{self.ranks}" if self.in_clusters else "")

    def word_bytes(self, width: int, adjoint: bool, tiles: int) -> int:
        """What blocks exchange the states of so many tiles through."""
        return (16 if adjoint else 8) * 256 * -(-width // CHUNK_UNITS[self.operand]) * tiles

    def shared_bytes(self, width: int, adjoint: bool) -> int:
        """Dynamic shared memory of a block: `March::shared_bytes` of march.cuh."""
        columns = (1 if adjoint else 3) * self.units
        pitch = columns + (8 if columns % 16 == 0 else 0)
        words = self.word_bytes(width, adjoint, self.turns) if self.in_clusters else 0
        return 4 * 2 * self.warps * TILE_ROWS * pitch + 24 * self.turns * TILE_ROWS * self.units // 2 + words


def plans(
    width: int, num_rows: int, dtype: torch.dtype, precision: Precision, *, arch: int, multiprocessors: int
) -> list[Plan]:
    """Every way to launch a march of these sizes, one block on a multiprocessor; none where W does not fit.

    `precision` counts for fp32 only; "ieee" has no kernel.
    """
    operand = _operand(dtype, precision)
    if operand not in CHUNK_UNITS or width % 2:
        return []
    chunk, tiles = CHUNK_UNITS[operand], -(-num_rows // TILE_ROWS)
    padded = -(-width // chunk) * chunk
    grids = [each for each in GRIDS.get((operand, dtype), ()) if each[0] * each[1] * chunk >= width]
    sizes = [(*each, -(-padded // each[2]), False) for each in grids if each[1] == min(grid[1] for grid in grids)]
    for warps, chunks, units, ranks in CLUSTERS.get((operand, dtype), ()) if arch == 90 else ():
        if padded <= min(warps * chunks * chunk, units * ranks) < 2 * padded:
            sizes.append((warps, chunks, units, ranks, True))
    found = [
        Plan(operand, warps, chunks, units, ranks, min(tiles, multiprocessors // ranks), tiles, in_clusters)
        for warps, chunks, units, ranks, in_clusters in sizes
        if ranks <= multiprocessors
    ]
    return [p for p in found if max(p.shared_bytes(width, adjoint) for adjoint in (False, True)) <= shared_limit(arch)]


@lru_cache(1024)
def best_plan(
    width: int,
    num_rows: int,
    dtype: torch.dtype,
    precision: Precision,
    *,
    arch: int,
    multiprocessors: int,
    resident: bool,
) -> Plan | None:
    """The plan that an H100 ran soonest, or near it, or None where Triton's kernels should run.

    Fewest turns, then in a cluster where there is one, then fewest units a block. `resident`: Triton runs the sweep
    in one launch too. Then only what takes all rows at once comes into question; else what takes them in up to four
    turns.
    """
    found = plans(width, num_rows, dtype, precision, arch=arch, multiprocessors=multiprocessors)
    candidates = [p for p in found if p.turns <= (1 if resident else 4)]
    return min(candidates, key=lambda p: (p.turns, not p.in_clusters, p.units), default=None)


def is_measured(
    kind: Kind, operand: str, width: int, sweep: Sweep, num_rows: int, terms: Terms, *, arch: int, multiprocessors: int
) -> bool:
    """Whether this march is within what an H100 measured to be faster than Triton's: forward, and adjoint with g."""
    if arch != 90 or multiprocessors < 132 or sweep.num_intervals != 1 or terms.delta is not None:
        return False
    if kind == "forward" and terms.g is not None:
        return False
    return any(
        least <= width <= most and num_rows <= rows and sweep.steps >= steps
        for least, most, rows, steps in MEASURED[operand]
    )


def plan_of(kind: Kind, u: Tensor, sweep: Sweep, terms: Terms, *others: Tensor | None, resident: bool) -> Plan | None:
    """How a march runs this sweep of states `u`; None where Triton's kernels do.

    `kernels.cuda.choice` says where marches are wanted. Where one should run and cannot, that is said once.
    """
    wanted = choice.where()
    if wanted == "nowhere" or u.device.type != "cuda" or u.dtype not in _SOURCE:
        return None
    if sweep.steps == 1 or terms.products is not None or 0 in u.shape:
        return None
    precision, num_rows = dot_precision(u.dtype), sweep.num_intervals * u.shape[1]
    where = {"arch": arch_of(u.device), "multiprocessors": multiprocessors_of(u.device)}
    operand = _operand(u.dtype, precision)
    if operand not in CHUNK_UNITS:
        return None
    if wanted == "measured" and not is_measured(kind, operand, u.shape[-1], sweep, num_rows, terms, **where):
        return None
    plan = best_plan(u.shape[-1], num_rows, u.dtype, precision, resident=resident, **where)
    if plan is None:
        return None
    if reason := refusal(u, *others, *terms.tensors()) or too_large(kind, plan, u):
        say_once("implicit_gru in CUDA C++", f"{reason}; Triton's kernel runs instead")
        return None
    return plan


def too_large(kind: Kind, plan: Plan, u: Tensor) -> str | None:
    """Why the device cannot run this plan, or None: it holds all blocks of a grid at once, or one of a cluster."""
    try:
        loaded = _loaded(kind, plan, u)
    except RuntimeError as error:
        return str(error)
    shared = plan.shared_bytes(u.shape[-1], kind == "adjoint")
    most, blocks = modules.resident_blocks(loaded, plan.threads, shared, u.device), plan.ranks * plan.groups
    if most >= (1 if plan.in_clusters else blocks):
        return None
    return f"the device holds {most} blocks of {_name(kind, plan, u.dtype)} at once; it has {blocks}"


def refusal(u: Tensor, *others: Tensor | None) -> str | None:
    """Why no march can be launched on these tensors, or None: pairs of units are read at once."""
    for t in (u, *others):
        if t is not None and (t.data_ptr() % (2 * t.itemsize) or any(stride % 2 for stride in t.stride()[:-1])):
            return f"a tensor {tuple(t.shape)} with strides {t.stride()} cannot be read by pairs of units"
    return modules.refusal(_SOURCE[u.dtype], u.device)


def sweep(h: Tensor, x: Tensor, cell: Cell, sweep: Sweep, terms: Terms, plan: Plan) -> None:
    """As `implicit_gru.sweep`, in one launch, without products."""
    _march("forward", h, x, None, cell, sweep, terms, plan)


def adjoint_sweep(lam: Tensor, at: Coefficients, w: Tensor, sweep: Sweep, terms: Terms, plan: Plan) -> None:
    """As `implicit_gru.adjoint_sweep`, in one launch, without products."""
    _march("adjoint", lam, at.c, at.a, Cell(w, None, 0.0, ""), sweep, terms, plan)


def _march(
    kind: Kind, u: Tensor, x_or_c: Tensor, a: Tensor | None, cell: Cell, geometry: Sweep, terms: Terms, plan: Plan
) -> None:
    w, b, dt, formulation = cell.w, cell.b, cell.dt, cell.formulation
    width, adjoint = u.shape[-1], kind == "adjoint"
    in_grid = 0 if plan.in_clusters else plan.word_bytes(width, adjoint, plan.tiles)
    words = torch.zeros(in_grid, dtype=torch.uint8, device=u.device)
    layer, source, target = geometry.first, geometry.sources(0).start, geometry.targets(0).start
    rows = geometry.num_intervals * u.shape[1]

    arguments = np.array(
        (
            width, rows, geometry.steps, words.data_ptr(), rows, u.shape[1], geometry.steps, last_steps(geometry),
            swept(u, source, geometry), swept(u, target, geometry),
            swept(terms.g, target, geometry),
            swept(terms.delta, layer, geometry), swept(terms.anchors, layer, geometry),
            swept(x_or_c, layer, geometry), swept(a, layer, geometry),
            w.data_ptr(), 0 if b is None else b.data_ptr(), w.stride(0), dt, formulation == "implicit",
        ),
        dtype=ARGUMENTS,
    )  # fmt: skip
    launches[f"gru_{kind}_march"] += 1
    grid, shared = (plan.ranks, plan.groups), plan.shared_bytes(width, adjoint)
    modules.launch(_loaded(kind, plan, u), grid, plan.threads, shared, arguments, u.device)


def _name(kind: Kind, plan: Plan, dtype: torch.dtype) -> str:
    return f"gru_{kind}_{plan.operand}_{_STORAGE[dtype]}_{plan.suffix}"


def _loaded(kind: Kind, plan: Plan, u: Tensor) -> Any:
    return modules.function(_SOURCE[u.dtype], _name(kind, plan, u.dtype), u.device, cooperative=not plan.in_clusters)
