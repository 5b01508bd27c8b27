"""Every CUDA C++ kernel compiles for its targets, within its registers, where nvcc is; no GPU is needed.

After a change that is meant to change them: python -m tests.kernels.cuda_compiled --update, and read the difference.
"""

import shutil

import pytest
import torch

from lpgpu.kernels.conv_step.cuda_sweep import CHANNELS
from lpgpu.kernels.implicit_gru.cuda_march import CLUSTERS, GRIDS
from tests.kernels.cuda_compiled import TABLE, TARGETS, Resources, compile_all, read_table

if shutil.which("nvcc") is None:
    pytest.skip("nvcc is not installed", allow_module_level=True)

GROWTH = 1.1  # compiler versions move registers by a few
SPILLED_ON_SM_80 = 160  # bytes, once, while weights are loaded
STORAGE = {torch.bfloat16: "bf16", torch.float32: "fp32"}


@pytest.fixture(scope="module")
def compiled() -> dict[str, Resources]:
    return compile_all()


def test_the_table_is_of_the_kernels(compiled: dict[str, Resources]) -> None:
    assert sorted(compiled) == sorted(read_table()), f"{TABLE.name} is out of date"


def test_every_size_that_is_launched_is_compiled(compiled: dict[str, Resources]) -> None:
    """Clusters are of compute capability 9.0 only."""
    wanted = set()
    for table, targets in ((GRIDS, TARGETS), (CLUSTERS, ["sm_90a"])):
        for (operand, dtype), sizes in table.items():
            for size in sizes:
                suffix = "_".join(f"{letter}{n}" for letter, n in zip("wcur", size, strict=False))
                for kind in ("forward", "adjoint"):
                    wanted |= {f"gru_{kind}_{operand}_{STORAGE[dtype]}_{suffix} {target}" for target in targets}
    for (operand, dtype), channels in CHANNELS.items():
        names = [f"conv_{kind}_{operand}_{STORAGE[dtype]}_c{c}" for kind in ("forward", "adjoint") for c in channels]
        wanted |= {f"{name} {target}" for name in names for target in TARGETS}
    assert {key for key in compiled if not key.startswith("affine_scan_")} == wanted


def test_nothing_spills(compiled: dict[str, Resources]) -> None:
    allowed = {"sm_80": SPILLED_ON_SM_80, "sm_90a": 0}
    assert not {key: each for key, each in compiled.items() if each.spilled > allowed[key.rpartition(" ")[2]]}


def test_nothing_has_grown(compiled: dict[str, Resources]) -> None:
    grown = {}
    for key, then in read_table().items():
        now = compiled[key]
        if now.registers > GROWTH * then.registers or now.spilled > GROWTH * then.spilled:
            grown[key] = (then, now)
    assert not grown
