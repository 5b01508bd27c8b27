"""Whatever the rules choose has the shared memory it takes, on every GPU: too much fails at launch only."""

import itertools

import pytest
import torch

from lpgpu.kernels.dense_step import tiles as dense
from lpgpu.kernels.devices import shared_limit
from lpgpu.kernels.implicit_gru import tiles as gru
from tests.kernels.compiled import read_table

ARCHS = [80, 86, 87, 89, 90, 100, 120]
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("arch", ARCHS)
def test_resident_dense_sweeps(arch: int) -> None:
    for width, batch, dtype in itertools.product(range(1, 513), (1, 1000), DTYPES):
        tile = dense.resident_tile(width, batch, dtype, arch)
        if tile is not None:
            assert dense.shared_bytes(tile.rows, tile.cols, tile.stages, dtype) <= shared_limit(arch)


def test_odd_widths_that_would_spill_are_not_resident() -> None:
    assert dense.resident_tile(255, 1000, torch.bfloat16, 90) is None
    assert dense.resident_tile(254, 1000, torch.bfloat16, 90) is not None
    assert dense.resident_tile(127, 1000, torch.bfloat16, 90) is not None


def test_the_formula_of_dense_sweeps_covers_what_is_compiled() -> None:
    """Of sm_80 and sm_86; on an H100 with a second W."""
    table = read_table()
    shipped = [key for key in table if key.startswith("dense_sweep_kernel")]
    assert any("sm_86" in key for key in shipped) and any("all terms" in key for key in shipped)
    for key in shipped:
        _, size, name, *_, arch = key.split()
        width, dtype = int(size[2:]), {"bf16": DTYPES[0], "fp16": DTYPES[1], "fp32": DTYPES[2], "fp64": DTYPES[3]}[name]
        tile = dense.resident_tile(width, 1 << 20, dtype, int(arch[3:]))
        assert tile is not None
        more = tile.cols**2 * dtype.itemsize if arch == "sm_90" else 0
        assert table[key].shared <= dense.shared_bytes(tile.rows, tile.cols, tile.stages, dtype) + more, key


@pytest.mark.parametrize("arch", ARCHS)
def test_resident_gru_sweeps(arch: int) -> None:
    precisions = ("ieee", "tf32x3", "bf16x3", "tf32", "bf16")
    kinds = ("forward", "adjoint", "recomputed")
    for width, dtype, precision, kind in itertools.product((16, 32, 64, 100, 128), DTYPES, precisions, kinds):
        for arrays in range(4):
            chosen = gru.tile(width, dtype, arch, precision=precision, kind=kind, arrays=arrays)
            assert chosen.shared_bytes <= shared_limit(arch)


def test_small_gpus_take_the_tiles_of_a_step_that_are_compiled_for_sm_80() -> None:
    """Those fit into the least shared memory there is."""
    for dtype, precision, rows in itertools.product(DTYPES, ("ieee", "tf32x3", "bf16x3", "tf32", "bf16"), (16, None)):
        of_arch = {arch: gru.tile(512, dtype, arch, precision=precision, num_rows=rows) for arch in (80, 86, 89, 120)}
        assert len({(t.rows, t.columns, t.depth, t.num_warps, t.num_stages) for t in of_arch.values()}) == 1
    kernels = ("gru_step_tiled", "gru_adjoint_tiled", "dense_step_kernel", "conv_step_kernel", "conv_gradient_kernel")
    of_steps = {key: each for key, each in read_table().items() if key.startswith(kernels) and key.endswith("sm_80")}
    assert any("fp32 bf16" in key for key in of_steps)
    assert not {key: each.shared for key, each in of_steps.items() if each.shared > shared_limit(86)}
