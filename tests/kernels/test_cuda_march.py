"""Plans of the marches in CUDA C++, and where their cubins come from; the kernels are in test_phases.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpgpu.kernels.cuda import modules
from lpgpu.kernels.devices import shared_limit
from lpgpu.kernels.implicit_gru.cuda_march import CHUNK_UNITS, TILE_ROWS, plans

WIDEST = {"bf16": 1024, "tf32": 1024, "tf32x3": 512}
MULTIPROCESSORS = {80: 108, 90: 132}


@pytest.fixture
def cubins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is searched first."""
    monkeypatch.setenv("LPGPU_CUBINS", str(tmp_path))
    modules.cubin.cache_clear()
    yield tmp_path
    modules.cubin.cache_clear()


@given(
    width=st.integers(1, 600).map(lambda half: 2 * half),
    rows=st.integers(1, 3000),
    precision=st.sampled_from(["bf16", "tf32", "tf32x3"]),
    fp32=st.booleans(),
    arch=st.sampled_from([80, 90]),
)
def test_plans_hold_all_units_and_rows(width: int, rows: int, precision: str, fp32: bool, arch: int) -> None:
    dtype = torch.float32 if fp32 else torch.bfloat16
    found = plans(width, rows, dtype, precision, arch=arch, multiprocessors=MULTIPROCESSORS[arch])  # pyright: ignore
    for plan in found:
        chunks = -(-width // CHUNK_UNITS[plan.operand])
        assert plan.operand == (precision if fp32 else "bf16")
        assert plan.warps * plan.chunks >= chunks  # the weights of all of them are in registers
        assert (
            plan.units * plan.ranks >= chunks * CHUNK_UNITS[plan.operand]
        )  # somebody sends every word that is waited for
        assert plan.units * TILE_ROWS // 2 <= plan.threads
        assert plan.tiles * TILE_ROWS >= rows
        assert 1 <= plan.groups <= plan.tiles
        assert plan.ranks * plan.groups <= MULTIPROCESSORS[arch]  # one block each: all are resident
        assert plan.shared_bytes(width, adjoint=True) <= shared_limit(arch)
        assert not plan.in_clusters or arch == 90
    if arch == 90 and rows <= 128:
        assert bool(found) == (width <= WIDEST[precision if fp32 else "bf16"])


def test_odd_widths_and_other_precisions_have_no_plan() -> None:
    where = {"arch": 90, "multiprocessors": 132}
    assert plans(256, 16, torch.float32, "tf32", **where)
    assert not plans(255, 16, torch.float32, "tf32", **where)
    assert not plans(256, 16, torch.float32, "ieee", **where)
    assert not plans(256, 16, torch.float64, "tf32", **where)


def test_cubins_are_found_by_capability(cubins: Path) -> None:
    assert modules.cubin("implicit_gru/gru_march", 90) is None
    modules.cubin.cache_clear()
    (cubins / "gru_march.sm_90a.cubin").touch()
    assert modules.cubin("implicit_gru/gru_march", 90) == cubins / "gru_march.sm_90a.cubin"
    assert modules.cubin("implicit_gru/gru_march", 80) is None
    assert modules.cubin("implicit_gru/gru_march", 100) is None  # sm_90a runs on 9.0 only
    assert "implicit_gru/gru_march.sm_90a" in modules.describe()


def test_a_refusal_names_what_is_missing(cubins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "has_cupy", lambda: False)
    assert "CuPy is not installed" in str(modules.refusal("affine_scan/scan", torch.device("cpu")))
    monkeypatch.setattr(modules, "has_cupy", lambda: True)
    assert "scan.sm_90a.cubin was not built" in str(modules.refusal("affine_scan/scan", torch.device("cpu")))
    (cubins / "scan.sm_90a.cubin").touch()
    modules.cubin.cache_clear()
    assert modules.refusal("affine_scan/scan", torch.device("cpu")) is None


def test_a_source_that_does_not_compile_says_why(tmp_path: Path) -> None:
    compiler = tmp_path / "nvcc"
    compiler.write_text("#!/bin/sh\necho an error of mine >&2\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(RuntimeError, match="an error of mine"):
        modules.build("affine_scan/scan", "sm_90a", tmp_path, nvcc=str(compiler))
