"""How a GRU operation runs on the GPU: whether W fits on chip, and with what tiles.

*Resident*: one launch runs all steps of a row tile, the 3H×H weights in shared memory throughout,

    shared bytes = copies · 3 · P² · bytes  +  (stages − 1) · tiles · rows · P · bytes  +  scratch

with P the width padded to a power of two, `copies` doubled where W is needed both ways (gates recomputed in the
adjoint) and where it is split in two (tf32x3, bf16x3), and `tiles` the arrays that each step reads. *Tiled*: one launch
per step, a matrix product with the gates as its epilogue; any width, and every call of a single step, where holding W
gains nothing.

The tiles are those that compile without spills; which of them is fastest has not been measured. Three cases do spill:
tf32 at H = 128 with Δ-correction, g and products at once (24 bytes a thread); bf16x3 above 64 units with products (56
bytes at most); and odd widths above 64 in 16 bits.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from lpgpu.kernels.devices import shared_limit
from lpgpu.kernels.precision import Precision

Kind = Literal["forward", "adjoint", "recomputed"]

ROWS = 16  # the least that a matrix instruction takes: a serial solve has few
_WIDEST_UNSPILLED = {"fp64": 32, "ieee": 64, "tf32x3": 64, "bf16x3": 128, "tf32": 128, "16-bit": 128}
_TILES_READ = {"forward": 3, "adjoint": 4, "recomputed": 4}


@dataclass(frozen=True)
class Tile:
    """How an operation is launched, and why so.

    Attributes:
        kind: "resident" or "tiled".
        rows, columns, depth: of a program's tile: state rows, units, and units summed over at a time. Of a
            resident tile `columns` and `depth` are the padded width.
        num_warps, num_stages: of the launch.
        shared_bytes: what W and the tiles take by the formula; 0 where it is tiled.
        reason: one line.
    """

    kind: Literal["resident", "tiled"]
    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int
    shared_bytes: int
    reason: str


@lru_cache(1024)
def tile(
    width: int,
    dtype: torch.dtype,
    arch: int,
    *,
    precision: Precision = "ieee",
    kind: Kind = "forward",
    arrays: int = 0,
    num_rows: int | None = None,
    steps: int | None = None,
) -> Tile:
    """The tile for H = `width` on compute capability `arch` (90: sm_90).

    `precision` counts for fp32 only. `arrays`: how many each step reads besides its inputs (`Terms.arrays`). `num_rows`
    (None: many) is intervals times batch, `steps` (None: several) the sweep's length.
    """
    padded = max(16, 1 << (width - 1).bit_length())
    arithmetic = _arithmetic(dtype, precision)
    narrow = dtype.itemsize > 2 or width % 2 == 1
    if steps == 1:
        return _tiled(arithmetic, narrow, arch, num_rows, "a single step gains nothing from W on chip")
    if padded > _WIDEST_UNSPILLED[arithmetic]:
        reason = f"{arithmetic} keeps W on chip up to H = {_WIDEST_UNSPILLED[arithmetic]}; H is {width}"
        return _tiled(arithmetic, narrow, arch, num_rows, reason)
    available, shared = shared_limit(arch), 0
    for stages in (1,) if arithmetic == "fp64" else (2, 1):
        shared = shared_bytes(padded, dtype, precision=precision, kind=kind, stages=stages, extra_tiles=arrays)
        if shared <= available:
            reason = f"W and the tiles take {shared} of {available} bytes of shared memory"
            if dtype.itemsize == 2 and width % 2:
                reason += "; an odd width is loaded unit by unit"
            warps = {16: 4, 32: 4, 64: 8, 128: 16}[padded]
            return Tile("resident", ROWS, padded, padded, warps, stages, shared, reason)
    return _tiled(arithmetic, narrow, arch, num_rows, f"W would take {shared} of {available} bytes of shared memory")


@lru_cache(1024)
def picard_tile(width: int, dtype: torch.dtype, arch: int, *, precision: Precision, kind: Kind) -> Tile:
    """The tile of one iteration of Picard steps: of few rows always, as those of a march are.

    To H = 128 (fp32: 64) the adjoint sums over all of W's rows at once, and keeps them on chip for all steps of a run;
    forward, one product in the first iteration serves them all.
    """
    padded = max(16, 1 << (width - 1).bit_length())
    arithmetic = _arithmetic(dtype, precision)
    if padded > 128 or arithmetic in ("fp64", "ieee") or width % 2:
        return tile(width, dtype, arch, precision=precision, steps=1, num_rows=1)
    columns, depth, widest = (32, 64, 128) if dtype.itemsize == 2 else (16, 32, 64)
    held = kind == "adjoint" and padded <= widest
    warps = 8 if held and padded > 64 else 4
    depth = padded if held else min(depth, padded)
    return Tile("tiled", ROWS, min(columns, padded), depth, warps, 2, 0, "few rows, and few units")


LIBRARY = {"16-bit": ((512, 4096), (1000, 256)), "tf32x3": ((256, 4096), (1000, 256))}
"""Arithmetic → (least width, least rows) from which an H100 took longer for the tiled adjoint than PyTorch's operators.

By a third to two thirds (bench/results/h100*/kernels.jsonl); measured in bf16, and in fp32 as three TF32 products.
"""


def library_is_sooner(chosen: Tile, width: int, dtype: torch.dtype, precision: Precision, num_rows: int) -> bool:
    """Whether a step of the adjoint takes PyTorch's product, of all gates at once, instead of a tiled kernel."""
    if chosen.kind != "tiled" or dtype == torch.float16 or (dtype == torch.float32 and precision == "bf16"):
        return False
    least = LIBRARY.get(_arithmetic(dtype, precision), ())
    return any(width >= least_width and num_rows >= least_rows for least_width, least_rows in least)


def shared_bytes(
    padded: int, dtype: torch.dtype, *, precision: Precision, kind: Kind, stages: int, extra_tiles: int
) -> int:
    """Shared memory of a resident program by the formula above."""
    arithmetic = _arithmetic(dtype, precision)
    operand_bytes = 2 if arithmetic in ("16-bit", "bf16x3") else dtype.itemsize
    split = 2 if arithmetic in ("tf32x3", "bf16x3") else 1
    copies = split * (2 if kind == "recomputed" else 1)
    weights = copies * 3 * padded**2 * operand_bytes
    tiles = (stages - 1) * (_TILES_READ[kind] + extra_tiles) * ROWS * padded * dtype.itemsize
    scratch = split * ROWS * padded * (operand_bytes if arithmetic == "bf16x3" else dtype.itemsize)
    return weights + tiles + scratch


def flops(rows: int, width: int, steps: int, kind: Kind = "forward") -> int:
    """Floating-point operations of a sweep's products; what the gates take is not counted."""
    return (12 if kind == "recomputed" else 6) * rows * width**2 * steps


def traffic_bytes(rows: int, width: int, steps: int, dtype: torch.dtype, kind: Kind = "forward") -> int:
    """Bytes a sweep must move past the caches: what every step reads and the state it stores, W once."""
    return ((_TILES_READ[kind] + 1) * rows * steps + rows + 3 * width) * width * dtype.itemsize


def _arithmetic(dtype: torch.dtype, precision: Precision) -> str:
    if dtype == torch.float64:
        return "fp64"
    if dtype.itemsize == 2 or precision == "bf16":
        return "16-bit"
    return precision


def _tiled(arithmetic: str, narrow: bool, arch: int, num_rows: int | None, reason: str) -> Tile:
    """Tiles of 64 rows where there are many, else of 16.

    `narrow` ones where fp32 tensors enter 16-bit products, as wide tiles of them would not fit; and for odd widths,
    whose loads unit by unit would spill.
    """
    few = num_rows is not None and num_rows <= 1024  # fewer tiles of 64 rows than would fill the device
    if arithmetic == "fp64":
        return Tile("tiled", 16, 16, 16, 4, 2, 0, reason)
    if arithmetic == "ieee":
        return Tile("tiled", 16, 32, 16, 4, 2, 0, reason) if few else Tile("tiled", 64, 32, 16, 8, 2, 0, reason)
    if narrow or arithmetic != "16-bit":
        return Tile("tiled", 16, 32, 32, 4, 3, 0, reason) if few else Tile("tiled", 64, 32, 32, 8, 3, 0, reason)
    if few:
        return Tile("tiled", 16, 64, 64, 4, 3, 0, reason)
    columns = 64 if shared_limit(arch) >= shared_limit(90) else 32
    return Tile("tiled", 64, columns, 64, 8, 3, 0, reason)
