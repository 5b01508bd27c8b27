"""Launching the GRU's marches in CUDA C++: all steps of a sweep in one launch, W spread over many blocks' registers.

For widths that no single block can hold W of. A launch has `ranks` blocks for the units of the state, each with
`units` of them, times `groups` that share the tiles of 16 rows; all are resident at once. See gru_march.cu.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lpgpu.kernels.cuda import modules
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.sweep import Sweep

THREADS = 256
WARPS = THREADS // 32
TILE_ROWS = 16
CHUNK_UNITS = {"bf16": 16, "tf32": 8, "tf32x3": 8}
"""Operand → units that one matrix instruction sums over."""
SIZES = {
    ("bf16", torch.bfloat16): ((2, 8), (2, 16), (2, 32), (4, 8), (4, 16), (4, 32), (8, 8), (8, 16)),
    ("bf16", torch.float32): ((2, 8), (2, 16), (4, 8), (4, 16), (8, 8), (8, 16)),
    ("tf32", torch.float32): ((4, 8), (4, 16), (8, 8), (8, 16), (16, 8)),
    ("tf32x3", torch.float32): ((4, 8), (4, 16), (8, 8)),
}
"""(operand, dtype) → (chunks, units) of the kernels there are; they hold widths up to chunks · 8 · CHUNK_UNITS."""
_STORAGE = {torch.bfloat16: "bf16", torch.float32: "fp32"}
_SOURCE = {torch.bfloat16: "implicit_gru/gru_march", torch.float32: "implicit_gru/gru_march_fp32"}

_SWEPT = np.dtype([("start", np.uint64), ("interval", np.int64), ("step", np.int64), ("row", np.int64)])
ARGUMENTS = np.dtype(
    [
        ("width", np.int32), ("rows", np.int32), ("steps", np.int32), ("words", np.uint64),
        ("num_rows", np.int32), ("batch", np.int32), ("all_steps", np.int32), ("last_steps", np.int32),
        ("source", _SWEPT), ("target", _SWEPT), ("g", _SWEPT), ("delta", _SWEPT), ("anchors", _SWEPT),
        ("x_or_c", _SWEPT), ("a", _SWEPT),
        ("w", np.uint64), ("b", np.uint64), ("w_row", np.int64), ("dt", np.float32), ("implicit", np.int32),
    ],
    align=True,
)  # fmt: skip
"""`GruArguments` of gru_cells.cuh, byte for byte."""


@dataclass(frozen=True)
class Plan:
    """How a march is launched: the kernel's sizes, and blocks as ranks × groups."""

    operand: str
    chunks: int
    units: int
    ranks: int
    groups: int
    tiles: int

    @property
    def tiles_of_block(self) -> int:
        """Tiles of rows that take turns in a block."""
        return -(-self.tiles // self.groups)

    def shared_bytes(self, gates: int) -> int:
        """Dynamic shared memory of a block; `gates`: columns of the product for each unit."""
        columns = gates * self.units
        pitch = columns + (8 if columns % 16 == 0 else 0)
        return 4 * 2 * WARPS * TILE_ROWS * pitch + 24 * self.tiles_of_block * TILE_ROWS * self.units // 2

    def word_bytes(self, width: int, adjoint: bool) -> int:
        """What the blocks exchange their states through, zeroed before every launch."""
        chunks = -(-width // CHUNK_UNITS[self.operand])
        return (16 if adjoint else 8) * 256 * chunks * self.tiles


def plans(width: int, num_rows: int, multiprocessors: int, dtype: torch.dtype, precision: Precision) -> list[Plan]:
    """Every way to launch a march of these sizes, one block on a multiprocessor; none where W does not fit.

    `precision` counts for fp32 only; "ieee" has no kernel.
    """
    operand = "bf16" if dtype == torch.bfloat16 else precision
    sizes = SIZES.get((operand, dtype), ())
    if not sizes or width % 2:
        return []
    chunk = CHUNK_UNITS[operand]
    fitting = [chunks for chunks, _ in sizes if chunks * WARPS * chunk >= width]
    tiles = -(-num_rows // TILE_ROWS)
    found = []
    for chunks, units in sizes:
        ranks = -(-(-(-width // chunk) * chunk) // units)
        if fitting and chunks == min(fitting) and ranks <= multiprocessors:
            found.append(Plan(operand, chunks, units, ranks, min(tiles, multiprocessors // ranks), tiles))
    return found


def sweep(
    h: Tensor,
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    dt: float,
    formulation: str,
    geometry: Sweep,
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    plan: Plan,
) -> None:
    """As `implicit_gru.sweep`, in one launch."""
    _march("forward", h, x, None, w, b, dt, formulation, geometry, g, delta, anchors, plan)


def adjoint_sweep(
    lam: Tensor,
    a: Tensor,
    c: Tensor,
    w: Tensor,
    geometry: Sweep,
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    plan: Plan,
) -> None:
    """As `implicit_gru.adjoint_sweep`, in one launch."""
    _march("adjoint", lam, c, a, w, None, 0.0, "", geometry, g, delta, anchors, plan)


def _march(
    kind: str,
    u: Tensor,
    x_or_c: Tensor,
    a: Tensor | None,
    w: Tensor,
    b: Tensor | None,
    dt: float,
    formulation: str,
    geometry: Sweep,
    g: Tensor | None,
    delta: Tensor | None,
    anchors: Tensor | None,
    plan: Plan,
) -> None:
    width, adjoint = u.shape[-1], kind == "adjoint"
    words = torch.zeros(plan.word_bytes(width, adjoint), dtype=torch.uint8, device=u.device)
    layer, source, target = geometry.first, geometry.sources(0).start, geometry.targets(0).start
    rows, last_steps = geometry.num_intervals * u.shape[1], _last_steps(geometry)

    def swept(t: Tensor | None, first: int) -> tuple[int, int, int, int]:
        if t is None:
            return 0, 0, 0, 0
        stride = t.stride(0)
        return t[first].data_ptr(), geometry.interval * stride, geometry.direction * stride, t.stride(1)

    arguments = np.array(
        (
            width, rows, geometry.steps, words.data_ptr(), rows, u.shape[1], geometry.steps, last_steps,
            swept(u, source), swept(u, target), swept(g, target), swept(delta, layer), swept(anchors, layer),
            swept(x_or_c, layer), swept(a, layer),
            w.data_ptr(), 0 if b is None else b.data_ptr(), w.stride(0), dt, formulation == "implicit",
        ),
        dtype=ARGUMENTS,
    )  # fmt: skip
    shared = plan.shared_bytes(1 if adjoint else 3)
    name = f"gru_{kind}_{plan.operand}_{_STORAGE[u.dtype]}_c{plan.chunks}_u{plan.units}"
    loaded = modules.function(_SOURCE[u.dtype], name, u.device)
    modules.launch(loaded, (plan.ranks, plan.groups), THREADS, shared, arguments, u.device)


def _last_steps(geometry: Sweep) -> int:
    """Steps of the last interval, which may be shorter when marching forward."""
    first = geometry.first + (geometry.num_intervals - 1) * geometry.interval
    return geometry.steps if geometry.reverse else min(geometry.steps, geometry.num_layers - first)
