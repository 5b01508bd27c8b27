"""Which dense kernel runs, and with which tile: a function of width, dtype, rows and the GPU's shared memory.

The resident sweep holds a tile of rows on chip through all its steps and streams W_k, all of it at each step. With P
the padded width it takes

    shared bytes ≤ P² · bytes  +  (2, and with two stages 4 more) · rows · P · bytes  +  1024

and 3 · rows · P / threads registers for states and sums. Beyond that a step is a launch of its own, tiled in rows,
columns and the sum. A march of Picard steps of order 1 is one launch to width 64: a program takes its rows through all
layers of a run, so beyond that a launch for each step, whose columns are spread, does as well (an estimate).
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from lpgpu.kernels.devices import shared_limit


@dataclass(frozen=True)
class Tile:
    """Rows × columns of one program, how many units are summed over at a time, and how it is launched."""

    rows: int
    cols: int
    summed: int
    warps: int
    stages: int


_RESIDENT = {
    # (bytes, padded width): rows, warps, stages
    (2, 16): (128, 4, 2),
    (2, 32): (64, 4, 2),
    (2, 64): (64, 4, 2),
    (2, 128): (64, 8, 2),
    (2, 256): (32, 8, 1),
    (4, 16): (64, 4, 2),
    (4, 32): (64, 4, 2),
    (4, 64): (32, 4, 2),
    (4, 128): (16, 8, 2),
    (8, 16): (32, 4, 1),
    (8, 32): (32, 4, 1),
}

_TILED = {
    # (bytes, padded width): rows, columns, summed, warps, stages
    (2, 16): (128, 16, 16, 4, 1),
    (2, 32): (128, 32, 32, 4, 1),
    (2, 64): (128, 64, 64, 8, 2),
    (4, 16): (64, 16, 16, 4, 1),
    (4, 32): (64, 32, 32, 4, 1),
    (4, 64): (64, 64, 32, 8, 2),
    (8, 16): (32, 16, 16, 4, 1),
    (8, 32): (32, 32, 16, 4, 1),
}


_PICARD = {
    # (bytes, padded width): rows of many, columns, summed, layers at a time forward and adjoint, warps, stages
    (2, 16): (64, 16, 16, (8, 8), 4, 2),
    (2, 32): (64, 32, 32, (4, 4), 4, 2),
    (2, 64): (64, 32, 64, (4, 1), 8, 2),
    (4, 16): (16, 16, 16, (4, 4), 4, 2),
    (4, 32): (16, 32, 32, (2, 2), 4, 2),
    (4, 64): (16, 32, 32, (4, 2), 8, 2),
    (8, 16): (16, 16, 16, (2, 1), 4, 1),
    (8, 32): (16, 16, 16, (2, 1), 4, 1),
}

_PICARD_RESIDENT = {
    # (bytes, padded width): layers at a time, warps, stages; beyond that a march is spread over more programs
    (2, 16): (8, 4, 3),
    (2, 32): (4, 4, 3),
    (2, 64): (2, 4, 3),
    (4, 16): (4, 4, 2),
    (4, 32): (2, 4, 2),
    (4, 64): (1, 8, 2),
    (8, 16): (2, 4, 1),
    (8, 32): (1, 4, 1),
}
_PICARD_ROWS = 16
_MANY_ROWS = 8192  # from here on there are programs enough with larger tiles, which load W less often


def padded(width: int) -> int:
    """The power of two that a tile of this many columns takes; 16 is the narrowest matrix product."""
    return max(16, 1 << (width - 1).bit_length())


@dataclass(frozen=True)
class PicardTile(Tile):
    """As `Tile`, for one iteration of Picard steps or for a march of them; `layers` enter a product together."""

    layers: int


@lru_cache(1024)
def picard_tile(width: int, rows: int, dtype: torch.dtype, order: int, adjoint: bool) -> PicardTile:
    """The tile of one Picard iteration, of `order` in all, with so many `rows` of all runs together."""
    widest = max(cols for size, cols in _PICARD if size == dtype.itemsize)
    many, cols, summed, layers, warps, stages = _PICARD[dtype.itemsize, min(padded(width), widest)]
    return PicardTile(
        many if rows >= _MANY_ROWS else _PICARD_ROWS, cols, summed, warps, stages, layers[adjoint] if order == 1 else 1
    )


@lru_cache(1024)
def picard_march_tile(width: int, dtype: torch.dtype, order: int) -> PicardTile | None:
    """The tile of a march of Picard steps in one launch; None where each step is a launch of its own."""
    cols = padded(width)
    if order > 1 or (dtype.itemsize, cols) not in _PICARD_RESIDENT:
        return None
    layers, warps, stages = _PICARD_RESIDENT[dtype.itemsize, cols]
    return PicardTile(_PICARD_ROWS, cols, cols, warps, stages, layers)


@lru_cache(1024)
def resident_tile(width: int, batch: int, dtype: torch.dtype, arch: int) -> Tile | None:
    """The tile of the resident sweep on capability `arch` (90: sm_90); None where W does not fit beside the states."""
    cols = padded(width)
    if (dtype.itemsize, cols) not in _RESIDENT:
        return None
    if cols > 128 and width % 2:  # W, loaded unit by unit, spills here, and does not in single steps
        return None
    rows, warps, stages = _RESIDENT[dtype.itemsize, cols]
    if width * dtype.itemsize % 16:  # loads of unaligned rows are narrow and need more registers
        rows = max(16, rows // 2)
    tile = Tile(16 if batch <= 16 else rows, cols, cols, warps, stages)
    for fewer in range(stages, 0, -1):
        if shared_bytes(tile.rows, cols, fewer, dtype) <= shared_limit(arch):
            return replace(tile, stages=fewer)
    return None


def shared_bytes(rows: int, cols: int, stages: int, dtype: torch.dtype) -> int:
    """The most that a resident program takes, by the formula above; on an H100, which has room, once more W."""
    tiles = 6 if stages > 1 else 2
    return (cols * cols + tiles * rows * cols) * dtype.itemsize + 1024


def step_tile(width: int, dtype: torch.dtype) -> Tile:
    """The tile of a single step, for any width."""
    widest = max(cols for size, cols in _TILED if size == dtype.itemsize)
    return Tile(*_TILED[dtype.itemsize, min(padded(width), widest)])
