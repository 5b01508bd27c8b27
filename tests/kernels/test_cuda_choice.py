"""Where CUDA C++ kernels take the place of Triton's, against the rows of an H100; what happens where they cannot."""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lpgpu.kernels import dispatch
from lpgpu.kernels.affine_scan import cuda_scan
from lpgpu.kernels.cuda import choice, modules
from lpgpu.kernels.dispatch import KernelFallbackWarning
from lpgpu.kernels.implicit_gru import Cell, Coefficients, cuda_march
from lpgpu.kernels.implicit_gru.cuda_march import Plan, best_plan, is_measured, plans
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

ROWS = Path(__file__).parents[2] / "bench" / "results" / "h100-graphs" / "cuda.jsonl"
H100: dict[str, Any] = {"arch": 90, "multiprocessors": 132}
Case = tuple[str, int, int, str]


def measured() -> dict[Case, tuple[dict[Plan, float], float]]:
    """(kind, width, batch, operand) → seconds of each plan, and of Triton's kernels, over 256 steps."""
    plans_of: dict[Case, dict[Plan, float]] = defaultdict(dict)
    triton: dict[Case, float] = {}
    for row in map(json.loads, ROWS.read_text().splitlines()):
        if found := re.match(r"gru-(\w+) H=(\d+) batch=(\d+) steps=256 (\w+)", row["case"]):
            case = found[1], int(found[2]), int(found[3]), found[4]
            if "plan" in row:
                assert "wrong" not in row and row["same bits again"]
                plans_of[case][Plan(**row["plan"])] = row["seconds"]["p50"]
            else:
                triton[case] = row["rivals"]["now"]
    return {case: (plans_of[case], triton[case]) for case in triton}


def dtype_of(operand: str) -> torch.dtype:
    return torch.bfloat16 if operand == "bf16" else torch.float32


def one_interval(steps: int, *, reverse: bool = False) -> Sweep:
    return Sweep(steps, steps - 1 if reverse else 0, steps, steps, reverse)


def test_the_best_plan_was_the_soonest_or_near_it() -> None:
    for case, (seconds, _) in measured().items():
        _, width, batch, operand = case
        chosen = best_plan(width, batch, dtype_of(operand), operand, resident=False, **H100)  # pyright: ignore
        assert chosen is not None and seconds[chosen] <= 1.02 * min(seconds.values()), case


def test_marches_are_chosen_where_they_were_sooner() -> None:
    """And for so many steps that they are in any case, by the times of 256: a march of fewer takes no longer."""
    chosen, left = set(), set()
    for (kind, width, batch, operand), (seconds, triton) in measured().items():
        terms = Terms(torch.zeros(1)) if kind == "adjoint" else NO_TERMS
        plan = best_plan(width, batch, dtype_of(operand), operand, resident=False, **H100)  # pyright: ignore
        enough = [
            steps
            for steps in range(1, 257)
            if is_measured(kind, operand, width, one_interval(steps), batch, terms, **H100)  # pyright: ignore
        ]
        (chosen if enough else left).add((width, batch, operand))
        if enough and plan is not None:
            assert seconds[plan] <= triton * enough[0] / 256, (kind, width, batch, operand)
    assert left == {(64, 16, "tf32")} and len(chosen) == 28


def test_what_was_not_measured_is_left_to_triton() -> None:
    def chosen(
        kind: Any = "forward", width: int = 256, rows: int = 16, sweep: Sweep | None = None, **other: Any
    ) -> bool:
        operand, terms = other.pop("operand", "bf16"), other.pop("terms", NO_TERMS)
        return is_measured(kind, operand, width, sweep or one_interval(256), rows, terms, **H100 | other)

    g, delta = Terms(torch.zeros(1)), Terms(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    assert chosen() and chosen("adjoint", terms=g) and chosen(width=1024, rows=64)
    assert not chosen(arch=80) and not chosen(multiprocessors=114)
    assert not chosen(width=62) and not chosen(width=1026) and not chosen(width=1024, rows=65)
    assert not chosen(sweep=one_interval(64)) and not chosen(sweep=Sweep(512, 0, 256, 255))
    assert not chosen(terms=g) and not chosen("adjoint", terms=delta)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, place in (("0", "nowhere"), ("1", "anywhere"), ("auto", "measured")):
        monkeypatch.setenv("LPGPU_CUDA", value)
        choice._of_environment.cache_clear()
        assert choice.where() == place
        assert ("LPGPU_CUDA" in choice.describe()) and choice.describe().split()[0] in ("never,", "where", "wherever")
    monkeypatch.setenv("LPGPU_CUDA", "yes")
    choice._of_environment.cache_clear()
    with pytest.raises(ValueError, match="LPGPU_CUDA is 'yes'; expected 0"):
        choice.where()
    monkeypatch.delenv("LPGPU_CUDA")
    choice._of_environment.cache_clear()
    assert choice.where() == "measured"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An H100 that has cubins and holds `most` blocks of a kernel; what is loaded is told."""
    facts: dict[str, Any] = {"most": 132, "loaded": []}

    def function(name: str, kernel: str, device: torch.device, *, cooperative: bool) -> str:
        facts["loaded"].append((kernel, cooperative))
        return kernel

    monkeypatch.setattr(modules, "refusal", lambda *_: None)
    monkeypatch.setattr(modules, "function", function)
    monkeypatch.setattr(modules, "resident_blocks", lambda *_: facts["most"])
    monkeypatch.setattr(cuda_march, "arch_of", lambda _: 90)
    monkeypatch.setattr(cuda_march, "multiprocessors_of", lambda _: 132)
    monkeypatch.setattr(dispatch, "_said", set())
    return facts


def on_gpu(*shape: int) -> Any:
    """As much of a CUDA tensor as a plan asks for."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return SimpleNamespace(
        device=torch.device("cuda", 0), dtype=torch.bfloat16, shape=torch.Size(shape), itemsize=2,
        data_ptr=lambda: 512, stride=lambda: tuple(strides),
    )  # fmt: skip


def test_occupancy_is_checked_before_a_launch(device: dict[str, Any]) -> None:
    u, sweep = on_gpu(257, 16, 512), one_interval(256)
    plan = cuda_march.plan_of("forward", u, sweep, NO_TERMS, resident=False)
    assert plan is not None and device["loaded"] == [("gru_forward_bf16_bf16_w8_c4_u8", True)]
    device["most"] = plan.ranks * plan.groups - 1
    with pytest.warns(KernelFallbackWarning, match=r"holds 63 blocks of gru_forward_.* at once; it has 64; Triton's"):
        assert cuda_march.plan_of("forward", u, sweep, NO_TERMS, resident=False) is None
    narrow = on_gpu(257, 16, 128)
    in_clusters = cuda_march.plan_of("forward", narrow, sweep, NO_TERMS, resident=True)
    assert in_clusters is not None and in_clusters.in_clusters and device["loaded"][-1][1] is False
    device["most"] = 0
    with pytest.warns(KernelFallbackWarning, match="holds 0 blocks"):
        assert cuda_march.plan_of("forward", narrow, sweep, NO_TERMS, resident=True) is None


def test_the_choice_is_heard(device: dict[str, Any]) -> None:
    measured, short = (on_gpu(257, 16, 512), one_interval(256)), (on_gpu(33, 16, 512), one_interval(32))
    for place, expected in (("nowhere", (False, False)), ("measured", (True, False)), ("anywhere", (True, True))):
        with choice.choice(place):
            found = [cuda_march.plan_of("forward", u, s, NO_TERMS, resident=False) for u, s in (measured, short)]
        assert tuple(plan is not None for plan in found) == expected


def test_a_binary_that_cannot_be_loaded_is_said(device: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def function(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU")

    monkeypatch.setattr(modules, "function", function)
    with pytest.warns(KernelFallbackWarning, match="NO_BINARY_FOR_GPU; Triton's kernel runs instead"):
        assert cuda_march.plan_of("forward", on_gpu(257, 16, 512), one_interval(256), NO_TERMS, resident=False) is None


@pytest.mark.parametrize("kind", ["forward", "adjoint"])
@pytest.mark.skipif(not dispatch.has_triton(), reason="triton is not installed")
def test_the_reason_says_what_ran(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lpgpu.kernels.implicit_gru import fused

    plan = plans(256, 3, torch.float32, "tf32", arch=90, multiprocessors=132)[0]
    monkeypatch.setattr(fused, "launch", lambda *_: None)
    for name in ("sweep", "adjoint_sweep"):
        monkeypatch.setattr(cuda_march, name, lambda *_: None)
    u, x, w = torch.zeros(5, 3, 256), torch.zeros(4, 3, 768), torch.zeros(768, 256)

    def reason(found: Plan | None) -> str:
        monkeypatch.setattr(cuda_march, "plan_of", lambda *arguments, **options: found)
        if kind == "forward":
            fused.sweep(u, x, Cell(w, None, 1.0, "classic"), Sweep(4, 0, 4, 4), NO_TERMS)
            return dispatch.reasons["implicit_gru.sweep"]
        fused.adjoint_sweep(u, Coefficients(u[1:], x, u[1:]), w, Sweep(4, 3, 4, 4, reverse=True), NO_TERMS)
        return dispatch.reasons["implicit_gru.adjoint_sweep"]

    assert reason(plan) == f"fused: a march in CUDA C++, one launch of {plan.ranks} x 1 blocks"
    assert reason(None).startswith("fused: Triton, tiled: tf32x3 keeps W on chip up to H = 64")


def test_scans_are_chosen_where_they_were_sooner() -> None:
    for row in map(json.loads, ROWS.read_text().splitlines()):
        if found := re.match(r"affine-scan (\d+) x (\d+) steps, (\d+) columns, (\w+)", row["case"]):
            intervals, steps, columns = (int(each) for each in found.groups()[:3])
            least = next(
                (
                    fewer
                    for fewer in range(1, steps + 1)
                    if cuda_scan.is_measured(columns, intervals, fewer, getattr(torch, found[4]), True, **H100)
                ),
                None,
            )
            assert (least is None) == (intervals == 64 or found[4] == "float64")
            assert least is None or row["seconds"]["p50"] <= row["Triton"] * least / steps
    assert not cuda_scan.is_measured(2048, 1, 4096, torch.float32, False, **H100)
    assert not cuda_scan.is_measured(2048, 1, 4096, torch.float32, True, arch=80, multiprocessors=108)


def test_blocks_of_all_multiprocessors_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By CuPy's driver, asked once for a kernel and its sizes."""
    asked: list[tuple[int, int, int]] = []
    driver = SimpleNamespace(occupancyMaxActiveBlocksPerMultiprocessor=lambda *sizes: asked.append(sizes) or 2)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(driver=driver)))
    monkeypatch.setitem(sys.modules, "cupy.cuda", SimpleNamespace(driver=driver))
    monkeypatch.setattr(modules, "multiprocessors_of", lambda _: 132)
    loaded = SimpleNamespace(kernel=SimpleNamespace(ptr=4711))
    for _ in range(2):
        assert modules.resident_blocks(loaded, 256, 10_000, torch.device("cuda", 0)) == 264
    assert asked == [(4711, 256, 10_000)]


@pytest.mark.parametrize(
    ("place", "expected"), [("nowhere", (0, 0)), ("measured", (1, 0)), ("anywhere", (1, 1))], ids=str
)
def test_a_scan_hears_the_choice(
    place: Any, expected: tuple[int, int], device: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one scan of 512 steps, and of 4 of 100."""
    for name, value in (("arch_of", 90), ("multiprocessors_of", 132)):
        monkeypatch.setattr(cuda_scan, name, lambda _, value=value: value)
    monkeypatch.setattr(cuda_scan, "refusal", lambda _: None)
    found = []
    for intervals, steps in ((1, 512), (4, 100)):
        v, phi = on_gpu(intervals, steps + 1, 2048), on_gpu(intervals, steps, 2048)
        with choice.choice(place):
            found.append(int(cuda_scan.is_chosen(v, phi, phi)))
    assert tuple(found) == expected
    monkeypatch.setattr(cuda_scan, "refusal", lambda _: "there is no room")
    with choice.choice("anywhere"), pytest.warns(KernelFallbackWarning, match="no room; Triton's kernel runs instead"):
        assert not cuda_scan.is_chosen(v, phi, phi)


@pytest.mark.skipif(not dispatch.has_triton(), reason="triton is not installed")
def test_a_scan_that_is_chosen_is_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    from lpgpu.kernels.affine_scan import fused

    scanned = []
    monkeypatch.setattr(cuda_scan, "is_chosen", lambda *_: True)
    monkeypatch.setattr(cuda_scan, "affine_scan", lambda *arguments: scanned.append(arguments))
    v, phi = torch.zeros(1, 5, 3), torch.zeros(1, 4, 3)
    fused.affine_scan(v, phi, phi, phi, True)
    assert len(scanned) == 1 and scanned[0][0] is v and scanned[0][-1] is True
    assert dispatch.reasons["affine_scan.affine_scan"] == "fused: in CUDA C++"
