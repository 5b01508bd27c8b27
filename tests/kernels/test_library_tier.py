"""Wide adjoints take PyTorch's product where an H100 measured that it is sooner than the tiled kernel, only there."""

import json
import re
from pathlib import Path

import pytest
import torch

from lpgpu.kernels import dispatch
from lpgpu.kernels.implicit_gru import Coefficients, reference, tiles
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

RESULTS = Path(__file__).parents[2] / "bench" / "results"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def chosen(width: int, rows: int, dtype: torch.dtype, precision: Precision, steps: int = 4) -> bool:
    tile = tiles.tile(width, dtype, 90, precision=precision, kind="adjoint", num_rows=rows, steps=steps)
    return tiles.library_is_sooner(tile, width, dtype, precision, rows)


def test_it_is_chosen_where_it_was_sooner_by_a_quarter() -> None:
    taken = set()
    for file in RESULTS.glob("h100*/kernels.jsonl"):
        for row in map(json.loads, file.read_text().splitlines()):
            found = re.match(r"gru-adjoint-sweep H=(\d+) rows=(\d+) steps=(\d+) (\w+)", row.get("name", ""))
            if not found or not row["times"]:
                continue
            width, rows, steps = (int(each) for each in found.groups()[:3])
            if chosen(width, rows, DTYPES[found[4]], "tf32x3", steps):
                assert row["rivals"]["PyTorch"] < 0.8 * row["times"]["p50"], row["name"]
                taken.add((width, rows, found[4]))
    assert taken == {
        *((512, 4096, "bf16"), (1000, 256, "bf16"), (1000, 4096, "bf16")),
        *((256, 4096, "fp32"), (512, 4096, "fp32"), (1000, 256, "fp32"), (1000, 4096, "fp32")),
    }


def test_what_was_not_measured_stays_with_the_kernels() -> None:
    assert not chosen(1000, 4096, torch.float16, "tf32x3")
    assert not chosen(1000, 4096, torch.float64, "tf32x3")
    assert not any(chosen(1000, 4096, torch.float32, precision) for precision in ("ieee", "tf32", "bf16x3", "bf16"))
    assert not chosen(128, 100_000, torch.bfloat16, "tf32x3"), "one launch for all steps"


@pytest.mark.skipif(not dispatch.has_triton(), reason="triton is not installed")
def test_it_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from lpgpu.kernels.implicit_gru import fused

    launched = []
    monkeypatch.setattr(fused, "launch", lambda *_: launched.append(_))
    sweep, w = Sweep(4, 3, 4, 3, reverse=True), torch.randn(3 * 256, 256) / 16
    lam, a, c = torch.randn(5, 4096, 256), torch.rand(4, 4096, 256), torch.randn(4, 4096, 3 * 256)
    at, expected, out = Coefficients(a, c, a), lam.clone(), torch.empty(4, 4096, 256)
    fused.adjoint_sweep(lam, at, w, sweep, NO_TERMS)
    reference.adjoint_sweep(expected, at, w, sweep)
    assert torch.equal(lam, expected) and not launched
    assert "PyTorch's product" in dispatch.reasons["implicit_gru.adjoint_sweep"]
    fused.vjp(lam[1:], at, w, out)
    assert out.isfinite().all() and not launched and "PyTorch's product" in dispatch.reasons["implicit_gru.vjp"]
    fused.adjoint_sweep(lam[:, :64], Coefficients(a[:, :64], c[:, :64], a[:, :64]), w, sweep, NO_TERMS)
    assert launched, "few rows"
    launched.clear()
    fused.adjoint_sweep(lam, at, w, sweep, Terms(products=torch.ones(1, 4096, 256)))
    assert launched, "with products"
