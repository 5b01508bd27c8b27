"""Which kernel and tile the GRU takes: the rule, and its formula against what the compiler reports."""

import importlib.util
import os

import pytest
import torch

from lpgpu.kernels.devices import shared_limit
from lpgpu.kernels.implicit_gru import tiles
from lpgpu.kernels.implicit_gru.tiles import tile

BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    ("width", "dtype", "precision", "arch", "kind", "padded"),
    [
        (5, BF16, "ieee", 80, "forward", 16),
        (64, BF16, "ieee", 80, "recomputed", 64),
        (100, BF16, "ieee", 80, "forward", 128),
        (128, torch.float16, "ieee", 80, "adjoint", 128),
        (128, BF16, "ieee", 90, "recomputed", 128),
        (128, BF16, "ieee", 80, "recomputed", None),
        (129, BF16, "ieee", 90, "forward", None),
        (128, BF16, "ieee", 86, "forward", None),
        (64, FP32, "tf32x3", 80, "forward", 64),
        (65, FP32, "tf32x3", 90, "forward", None),
        (100, FP32, "bf16x3", 90, "forward", 128),
        (128, FP32, "bf16x3", 90, "adjoint", 128),
        (128, FP32, "bf16x3", 80, "forward", None),
        (64, FP32, "bf16x3", 80, "forward", 64),
        (128, FP32, "tf32", 90, "forward", 128),
        (128, FP32, "tf32", 80, "forward", None),
        (128, FP32, "bf16", 80, "forward", 128),
        (32, FP64, "ieee", 80, "forward", 32),
        (33, FP64, "ieee", 90, "forward", None),
    ],
)
def test_w_stays_on_chip_where_it_fits(width, dtype, precision, arch, kind, padded) -> None:
    chosen = tile(width, dtype, arch, precision=precision, kind=kind)
    assert chosen.kind == ("tiled" if padded is None else "resident"), chosen.reason
    if padded is not None:
        assert chosen.columns == padded and chosen.shared_bytes <= shared_limit(arch)
    assert "\n" not in chosen.reason and any(digit in chosen.reason for digit in str(width) + "W")


def test_a_single_step_is_tiled() -> None:
    assert tile(64, BF16, 90, steps=1).kind == "tiled"


def test_few_rows_take_small_tiles() -> None:
    few, many = (tile(512, BF16, 90, num_rows=rows) for rows in (64, 1 << 16))
    assert few.rows == 16 < many.rows


def test_more_terms_never_take_more_memory_than_there_is() -> None:
    for arch in (80, 86, 90):
        for width in (16, 64, 100, 128):
            for arrays in (1, 3):
                for kind in ("forward", "adjoint", "recomputed"):
                    chosen = tile(width, BF16, arch, kind=kind, arrays=arrays)
                    assert chosen.shared_bytes <= shared_limit(arch)


def test_work_is_counted() -> None:
    assert tiles.flops(7, 10, 3) == 7 * 3 * 2 * 10 * 30 == tiles.flops(7, 10, 3, "recomputed") // 2
    assert tiles.traffic_bytes(1, 10, 1, FP32) == 4 * (3 * 10 + 10 + 10 + 3 * 100)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="what is decorated there cannot be compiled")
@pytest.mark.parametrize(
    "which", ["H=64 bf16", "H=100 bf16 all terms", "H=64 fp32 tf32x3", "H=128 fp32 tf32", "H=128 fp32 bf16x3"]
)
def test_formula_covers_what_is_compiled(which: str) -> None:
    """Never less than what the compiler takes, nor more than a tile beyond it."""
    from lpgpu.kernels.implicit_gru.configurations import configurations
    from tests.kernels.compiled import resources

    kinds = {"gru_sweep": "forward", "gru_adjoint_sweep": "adjoint", "gru_adjoint_recomputed": "recomputed"}
    for configuration in configurations():
        kernel = configuration.kernel.__name__
        if configuration.name == which and kernel in kinds:
            width = configuration.constexprs["WIDTH"]
            dtype, precision = (FP32, configuration.constexprs["PRECISION"]) if "fp32" in which else (BF16, "ieee")
            terms = "all terms" in which
            shared = tile(width, dtype, 90, precision=precision, kind=kinds[kernel], arrays=3 * terms).shared_bytes
            taken = resources(configuration, 90).shared
            assert taken <= shared <= taken + 8192, configuration.key
