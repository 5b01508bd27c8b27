"""Plans of the marches in CUDA C++, and where their cubins come from; the kernels are in test_phases.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpgpu.kernels import dispatch
from lpgpu.kernels.cuda import modules
from lpgpu.kernels.devices import shared_limit
from lpgpu.kernels.implicit_gru import Cell, Coefficients, cuda_march
from lpgpu.kernels.implicit_gru.cuda_march import CHUNK_UNITS, TILE_ROWS, best_plan, plans
from lpgpu.kernels.sweep import NO_TERMS, Sweep

WIDEST = {"bf16": 1024, "tf32": 1024, "tf32x3": 512}
MULTIPROCESSORS = {80: 108, 90: 132}


@pytest.fixture
def cubins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder with cubins: what this environment was installed with is not seen."""
    monkeypatch.setattr(modules, "folders_of", lambda package: [tmp_path])
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


def test_the_best_plan_has_few_turns() -> None:
    where = {"arch": 90, "multiprocessors": 132}
    narrow = best_plan(128, 16, torch.bfloat16, "bf16", resident=True, **where)
    assert narrow is not None and narrow.in_clusters and narrow.turns == 1
    wide = best_plan(1024, 64, torch.bfloat16, "bf16", resident=False, **where)
    assert wide is not None and not wide.in_clusters and wide.turns <= 4
    assert best_plan(128, 4096, torch.bfloat16, "bf16", resident=True, **where) is None  # Triton's has a program a tile
    assert best_plan(1024, 4096, torch.bfloat16, "bf16", resident=False, **where) is None


def test_what_cannot_be_read_by_pairs_is_refused() -> None:
    h = torch.zeros(4, 3, 8)
    assert "by pairs of units" in str(cuda_march.refusal(torch.zeros(4, 3, 9)[..., :8]))
    assert "by pairs of units" in str(cuda_march.refusal(h, torch.zeros(97)[1:].view(4, 3, 8)))
    assert "by pairs of units" not in str(cuda_march.refusal(h, None, h))


@pytest.mark.parametrize("kind", ["forward", "adjoint"])
@pytest.mark.skipif(not dispatch.has_triton(), reason="triton is not installed")
def test_a_sweep_with_a_plan_is_marched(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lpgpu.kernels.implicit_gru import fused

    plan = plans(256, 3, torch.float32, "tf32", arch=90, multiprocessors=132)[0]
    marched = []
    monkeypatch.setattr(cuda_march, "plan_of", lambda *arguments, **options: plan)
    monkeypatch.setattr(cuda_march, "sweep", lambda *arguments: marched.append(arguments))
    monkeypatch.setattr(cuda_march, "adjoint_sweep", lambda *arguments: marched.append(arguments))
    u, x, w = torch.zeros(5, 3, 256), torch.zeros(4, 3, 768), torch.zeros(768, 256)
    if kind == "forward":
        fused.sweep(u, x, Cell(w, None, 1.0, "classic"), Sweep(4, 0, 4, 4), NO_TERMS)
    else:
        fused.adjoint_sweep(u, Coefficients(u[1:], x, u[1:]), w, Sweep(4, 3, 4, 4, reverse=True), NO_TERMS)
    assert [arguments[-1] for arguments in marched] == [plan]


def test_cubins_are_found_by_capability(cubins: Path) -> None:
    assert modules.cubin("implicit_gru/gru_march", 90) is None
    modules.cubin.cache_clear()
    (cubins / "gru_march.sm_90a.cubin").touch()
    assert modules.cubin("implicit_gru/gru_march", 90) == cubins / "gru_march.sm_90a.cubin"
    assert modules.cubin("implicit_gru/gru_march", 80) is None
    assert modules.cubin("implicit_gru/gru_march", 100) is None  # sm_90a runs on 9.0 only
    assert "implicit_gru/gru_march.sm_90a" in modules.describe()


def test_the_folder_that_is_named_comes_before_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LPGPU_CUBINS", raising=False)
    installed = modules.folders_of("implicit_gru")
    monkeypatch.setenv("LPGPU_CUBINS", str(tmp_path))
    assert modules.folders_of("implicit_gru") == [tmp_path, *installed]


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
