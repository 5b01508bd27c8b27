"""The tiles of the convolution kernels: a function of channels and dtype only."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tile:
    """Pixels × channels of one program, how many taps' channels are summed over at a time, and how it is launched."""

    pixels: int
    cols: int
    summed: int
    warps: int
    stages: int


@dataclass(frozen=True)
class PicardTile(Tile):
    """As `Tile`, of one iteration of Picard steps; the channels of `layers` layers enter a product side by side."""

    layers: int


@dataclass(frozen=True)
class GradientTile:
    """Rows × columns of the weights' gradient in one program, and how many pixels are summed over at a time."""

    rows: int
    cols: int
    pixels: int
    warps: int
    stages: int


_STEP = {
    # (bytes, padded channels): pixels, columns, summed, warps, stages
    (2, 16): (128, 16, 16, 4, 2),
    (2, 32): (128, 32, 32, 4, 2),
    (2, 64): (128, 64, 64, 8, 3),
    (4, 16): (128, 16, 16, 4, 2),
    (4, 32): (64, 32, 32, 4, 2),
    (4, 64): (64, 64, 32, 8, 2),
    (8, 16): (32, 16, 16, 4, 1),
    (8, 32): (32, 32, 16, 4, 1),
}
_GRADIENT = {
    # (bytes, padded channels): rows, columns, pixels, warps, stages
    (2, 16): (16, 64, 64, 4, 2),
    (2, 32): (32, 64, 64, 4, 2),
    (2, 64): (64, 64, 64, 4, 2),
    (4, 16): (16, 64, 32, 4, 2),
    (4, 32): (32, 64, 32, 4, 2),
    (4, 64): (64, 64, 32, 8, 2),
    (8, 16): (16, 16, 16, 4, 1),
    (8, 32): (32, 16, 16, 4, 1),
}
_SIDE_BY_SIDE = {2: 64, 4: 64, 8: 32}  # bytes: channels of all layers that enter a product together


def step_tile(channels: int, dtype: torch.dtype) -> Tile:
    """The tile of a convolution."""
    return Tile(*_of(_STEP, channels, dtype))


def picard_tile(channels: int, dtype: torch.dtype, shared: bool) -> PicardTile:
    """The tile of one convolution of Picard steps; `shared`: of the same states in all layers of a run."""
    tile = step_tile(channels, dtype)
    columns, pixels = _SIDE_BY_SIDE[dtype.itemsize], tile.pixels // 2
    if not shared or tile.cols >= columns:
        return PicardTile(pixels, tile.cols, tile.summed, tile.warps, tile.stages, 1)
    return PicardTile(min(pixels, 32), tile.cols, tile.summed, tile.warps, tile.stages, columns // tile.cols)


def gradient_tile(channels: int, dtype: torch.dtype) -> GradientTile:
    """The tile of the gradient of its weights."""
    return GradientTile(*_of(_GRADIENT, channels, dtype))


def _of(
    table: dict[tuple[int, int], tuple[int, int, int, int, int]], channels: int, dtype: torch.dtype
) -> tuple[int, int, int, int, int]:
    widest = max(padded for size, padded in table if size == dtype.itemsize)
    return table[dtype.itemsize, min(max(16, 1 << (channels - 1).bit_length()), widest)]
