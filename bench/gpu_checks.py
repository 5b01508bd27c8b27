"""The smoke set of `bench/gpu.py`: each fused kernel, tier and dtype once against the reference in fp64, then networks.

The checks are those of tests/kernels/fused: what is written is poisoned before, and nothing else may change.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from gpu_cuda import cubins_awaited
from gpu_timing import DEVICE, REHEARSING, fused
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, LayerParallel, Serial
from lpgpu.kernels import dispatch
from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.implicit_gru import tiles
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep
from lpgpu.nn import ConvBlock, DenseBlock
from tests.assertions import TOLERANCE, relative_error
from tests.kernels.fused import affine_scan, conv, dense, fas, gru

Item = Callable[[], Iterator[dict[str, Any]]]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
F_SWEEP, F_SWEEP_BACK, RAGGED = Sweep(12, 0, 4, 3), Sweep(8, 3, 4, 3, reverse=True), Sweep(10, 0, 4, 3)
MARCHED = "GRU 256x256 serial"  # by default in CUDA C++
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "GRU 100x64": (lambda: GRU(9, 100, num_layers=2, formulation="implicit"), (64, 10, 9)),
    "GRU 300x20 serial": (lambda: GRU(9, 300, formulation="classic", solver=Serial()), (20, 10, 9)),
    MARCHED: (lambda: GRU(9, 256, formulation="classic", solver=Serial()), (20 if REHEARSING else 256, 10, 9)),
    "dense 64x64": (lambda: LayerParallel(None, lambda: DenseBlock(64), 64, 1.0), (50, 64)),
    "dense 64x64 c_points": (
        lambda: LayerParallel(None, lambda: DenseBlock(64), 64, 1.0, solver=MGRIT(levels=2, store="c_points")),
        (50, 64),
    ),
    "conv 8x32": (lambda: LayerParallel(None, lambda: ConvBlock(8, convolutions=2), 32, 1.0), (5, 8, 28, 28)),
}


def gru_sweep(way: str, width: int, dtype: torch.dtype, terms: bool, formulation: str) -> None:
    """In the tier that the rule chooses."""
    case = gru.Case(37, width, formulation, dtype=dtype, device=DEVICE, order="spread")
    chosen = tiles.tile(
        width, dtype, arch_of(torch.device(DEVICE)), precision=dot_precision(dtype), kind=way, num_rows=74,
        arrays=3 * terms,
    )  # fmt: skip
    if way == "recomputed" and chosen.kind == "tiled":
        return
    sweep = RAGGED if way == "forward" else F_SWEEP_BACK
    launches = 1 if chosen.kind == "resident" else 3
    gru.check_sweep(case, sweep, way=way, rhs=terms, delta=terms, products=terms, launches=launches)


def kernel_checks() -> Iterator[tuple[str, Callable[[], None]]]:
    """What is checked, with a name each; the kernels that most depends on come first."""
    for (name, dtype), width, way in itertools.product(DTYPES.items(), (64, 128, 200), gru.WAYS):
        yield f"gru {way} H={width} {name}", partial(gru_sweep, way, width, dtype, True, "implicit")
    for width in (64, 100):
        yield f"gru range H={width} fp16", partial(gru.check_half_range, width, DEVICE)
    for (name, dtype), width in itertools.product(DTYPES.items(), (64, 200)):
        case = gru.Case(37, width, "classic", dtype=dtype, device=DEVICE, order="spread")
        yield f"gru steps H={width} {name}", partial(gru.check_steps, case, 3)
        yield f"gru plain H={width} {name}", partial(gru_sweep, "forward", width, dtype, False, "classic")
    for (name, dtype), width in itertools.product(DTYPES.items(), (8, 64, 512)):
        case = dense.Case(200, width, dtype=dtype, device=DEVICE)
        terms = {"rhs": True, "delta": True, "products": True}
        yield f"dense steps H={width} {name}", partial(dense.check_step, case, 3)
        yield f"dense forward H={width} {name}", partial(dense.check_sweep, case, F_SWEEP, adjoint=False, **terms)
        yield f"dense adjoint H={width} {name}", partial(dense.check_sweep, case, F_SWEEP_BACK, adjoint=True, **terms)
    for (name, dtype), channels, convolutions in itertools.product(DTYPES.items(), (8, 64), (1, 2)):
        case = conv.Case((3, channels, 28, 28), convolutions, dtype=dtype, device=DEVICE, packed=True)
        shape, terms = f"C={channels} convolutions={convolutions} {name}", {"rhs": True, "delta": True}
        yield f"conv steps {shape}", partial(conv.check_step, case, 3)
        yield f"conv forward {shape}", partial(conv.check_sweep, case, RAGGED, adjoint=False, **terms)
        yield f"conv adjoint {shape}", partial(conv.check_sweep, case, F_SWEEP_BACK, adjoint=True, **terms)
    for name, dtype in DTYPES.items():
        orders = ("channels last", "spread", "contiguous")
        yield f"scan {name}", partial(affine_scan.check, affine_scan.Case((3, 37, 16, 128), dtype=dtype, device=DEVICE))
        yield f"fas {name}", partial(fas.check, fas.Case((17, 50, 8, 784), orders, dtype, DEVICE), 16)


def derivatives(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, and the gradients of a fixed functional of it."""
    x = x.clone().requires_grad_()
    y = net(x)
    y = torch.cat([each.flatten() for each in y]) if isinstance(y, tuple) else y.flatten()
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device)
    gradients = torch.autograd.grad((y * weights).sum(), (x, *net.parameters()))
    return dict(zip(["y", "x", *(name for name, _ in net.named_parameters())], [y.detach(), *gradients], strict=True))


def check_network(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """The same numbers as on a CPU in fp64."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    net, x = build().to(dtype), torch.randn(shape).to(dtype)
    expected = derivatives(copy.deepcopy(net).double(), x.double())
    came = derivatives(net.to(DEVICE), x.to(DEVICE))
    errors = {key: relative_error(came[key].double().cpu(), expected[key]) for key in expected}
    worst, allowed = max(errors, key=lambda key: errors[key]), 50 * TOLERANCE[dtype] if dtype == torch.float32 else 0.1
    row = {"error": errors[worst], "allowed": allowed, "of": worst}
    return row if errors[worst] <= allowed else {**row, "failed": f"{worst} is off by {errors[worst]:.1e}"}


def check_graphs(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Five steps whose solves are replayed, the weights changed between them: those that run, bit for bit."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    net: Any = build().to(DEVICE, dtype)
    other = copy.deepcopy(net)
    other.solver = dataclasses.replace(net.solver, cuda_graph=False)
    for use in range(5):
        x = torch.randn(shape).to(DEVICE, dtype)
        came, expected = derivatives(net, x), derivatives(other, x)
        for key in expected:
            if not torch.equal(came[key], expected[key]):
                off = relative_error(came[key].double().cpu(), expected[key].double().cpu())
                return {"failed": f"use {use}: {key} is off by {off:.1e}"}
        with torch.no_grad():
            for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
                mine += 0.05 * torch.randn_like(mine)
                theirs.copy_(mine)
    counts = {
        "recorded": net.graphs.recorded,
        "replayed": net.graphs.replayed,
        "refused": list(net.graphs.refusals.values()),
    }
    if not net.graphs.replayed and not REHEARSING:
        return {**counts, "failed": "nothing was replayed"}
    return counts


def _graphs(name: str, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    yield from _with_marches(name, lambda: check_graphs(name, dtype))


def _network(name: str, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    with fused():
        yield from _with_marches(name, lambda: check_network(name, dtype))


def _with_marches(name: str, check: Callable[[], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The check's row, and how many marches were launched, in which one network should take; once cubins are built."""
    if name != MARCHED or REHEARSING:
        yield check()
        return
    why_not = cubins_awaited(60.0)
    before = dispatch.launches.copy()
    row = check()
    row["marches"] = sum(n for kernel, n in (dispatch.launches - before).items() if kernel.endswith("_march"))
    if why_not:
        row["without CUDA C++"] = why_not
    elif not row["marches"]:
        row["failed"] = f"nothing marched: {dispatch.reasons}"
    yield row


def _check(check: Callable[[], None]) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    with fused():
        check()
    yield {"right": True}


def items(*, check: bool) -> dict[str, Item]:
    """All of them, named "smoke …"."""
    found: dict[str, Item] = {f"smoke {name}": partial(_check, each) for name, each in kernel_checks()}
    for network, (name, dtype) in itertools.product(NETWORKS, [("fp32", torch.float32), ("bf16", torch.bfloat16)]):
        found[f"smoke network {network} {name}"] = partial(_network, network, dtype)
        found[f"smoke graphs {network} {name}"] = partial(_graphs, network, dtype)
    return found
