"""Recurrent networks under torch.autocast, beside torch.nn's: products, states, results, gradients."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from lpgpu import GRU, LSTM, MGRIT, Recurrent, Serial
from tests.assertions import assert_close_relative, relative_error
from tests.nn.networks import exactly
from tests.nn.test_recurrent import CELLS, loop, start

T, B, F, H = 19, 3, 2, 4
BF16, FP16 = torch.bfloat16, torch.float16
EPSILON = {BF16: 2.0**-8, FP16: 2.0**-11}
CLASSES: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {"GRU": (GRU, nn.GRU), "LSTM": (LSTM, nn.LSTM)}
SOLVERS = {
    "serial": Serial(),
    "all states": exactly(T),
    "C-points": exactly(T, store="c_points"),
    "picard": MGRIT(levels=2, coarsening=4, iterations=5, adjoint_iterations=5, coarse_operator="picard"),
    "linear": MGRIT(levels=2, coarsening=4, iterations=5, adjoint_iterations=5, coarse_operator="linear"),
}


def autocast(dtype: torch.dtype = BF16) -> Any:
    return torch.autocast("cpu", dtype)


def pair(kind: str, solver: Any = None, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Ours and PyTorch's, of the same weights, in fp32."""
    ours, theirs = CLASSES[kind]
    plain = theirs(F, H, 2, **options)
    net = ours(F, H, 2, solver=solver or exactly(T), **options)
    net.load_state_dict(plain.state_dict())
    return net, plain


def initial(kind: str, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        return None
    h = torch.randn(2, B, H).to(dtype)
    return h if kind == "GRU" else (h, h.flip(0))


def results(net: nn.Module, *arguments: Any, **named: Any) -> list[Tensor]:
    """The output and the last states."""
    return [each for each in tree_leaves(net(*arguments, **named)) if each.is_floating_point()]


def everything(net: nn.Module, x: Tensor, hx: Any, context: Any = None, **named: Any) -> list[Tensor]:
    """Results, then the gradients of x and of all weights."""
    with context or nullcontext():
        came = results(net, x, hx, **named)
    loss = sum((each.float().square().sum() for each in came), torch.zeros(()))
    return [*came, *torch.autograd.grad(loss, [x, *net.parameters()])]


class Products(TorchDispatchMode):
    """Notes the dtypes that matrix products are computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm"):
            self.dtypes.add(args[-1].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("kind", CLASSES)
def test_values_and_gradients_are_those_of_fp32_to_the_rounding_of_products(
    kind: str, dtype: torch.dtype, solver: Any
) -> None:
    if kind == "LSTM" and getattr(solver, "coarse_operator", "auto") in ("picard", "linear"):
        solver = exactly(T, coarse_operator=solver.coarse_operator)  # which converge by marching only
    net, _ = pair(kind, solver)
    x, hx = torch.randn(T, B, F, requires_grad=True), initial(kind, torch.float32)
    came, exact = everything(net, x, hx, autocast(dtype)), everything(net, x, hx)
    for low, right in zip(came, exact, strict=True):
        assert 0 < relative_error(low, right) < 8 * EPSILON[dtype]
    assert {each.dtype for each in came[-1 - len(list(net.parameters())) :]} == {torch.float32}


@pytest.mark.parametrize("of_state", [None, torch.float32, BF16])
@pytest.mark.parametrize("of_input", [torch.float32, BF16])
@pytest.mark.parametrize("kind", CLASSES)
def test_results_are_of_torchs_dtypes_and_no_further_off(kind: str, of_input: Any, of_state: Any) -> None:
    net, theirs = pair(kind, Serial())
    x, hx = torch.randn(T, B, F).to(of_input), initial(kind, of_state)
    with autocast():
        came, expected = results(net, x, hx), results(theirs, x, hx)
    exact = results(theirs, x.float(), tree_map_only(Tensor, Tensor.float, hx))
    for ours, torchs, right in zip(came, expected, exact, strict=True):
        assert ours.dtype == torchs.dtype
        assert 0 < relative_error(ours, right) < 2 * relative_error(torchs, right)


@pytest.mark.parametrize("kind", CLASSES)
def test_packed_and_in_fp16(kind: str) -> None:
    """PyTorch's LSTM has no fp16 on a CPU; ours is as in bf16, more precise."""
    net, theirs = pair(kind, Serial())
    x, lengths = torch.randn(T, B, F), torch.tensor([7, T, 12])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    with autocast():
        came, expected = results(net, packed.to(BF16)), results(theirs, packed.to(BF16))
    assert [each.dtype for each in came] == [each.dtype for each in expected] == [BF16] * len(came)
    for ours, torchs in zip(came, expected, strict=True):
        assert relative_error(ours, torchs) < 8 * EPSILON[BF16]
    with autocast(FP16):
        low = results(net, x, lengths=lengths)
    assert {each.dtype for each in low} == {torch.float32 if kind == "GRU" else FP16}
    for ours, right in zip(low, results(net, x, lengths=lengths), strict=True):
        assert 0 < relative_error(ours, right) < 4 * EPSILON[FP16]


RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "GRU": lambda: GRU(F, H),
    "implicit GRU": lambda: GRU(F, H, formulation="implicit", bias=False),
    "LSTM": lambda: LSTM(F, H, proj_size=3),
    "Recurrent": lambda: Recurrent(CELLS["Elman"]()),
}


@pytest.mark.parametrize("net", RECURRENT)
def test_all_products_of_a_forward_are_in_autocasts_dtype(net: str) -> None:
    module, x = RECURRENT[net](), torch.randn(T, B, F)
    for context, dtype in ((autocast(), BF16), (autocast(FP16), FP16), (nullcontext(), torch.float32)):
        with Products() as seen, context:
            module(x)
        assert seen.dtypes == {dtype}


@pytest.mark.parametrize("cell", CELLS)
def test_any_cell_computes_as_it_does_by_itself(cell: str) -> None:
    """No further from fp32 than the cell in a loop under autocast; results keep the precision of states."""
    module = CELLS[cell]()
    net, x, h_0 = Recurrent(module, solver=Serial()), torch.randn(T, B, F), tree_map(Tensor.float, start(module))
    with autocast():
        came, expected = results(net, x, h_0), tree_leaves(loop(module, x, h_0))
    for low, of_loop, right in zip(came, expected, results(net, x, h_0), strict=True):
        assert low.dtype == torch.float32
        assert 0 < relative_error(low, right) < 2 * relative_error(of_loop, right)


def test_states_move_by_less_than_bf16_can_tell() -> None:
    """z = 1 − 2⁻¹²: over 512 steps the state goes an eighth of its way, in steps that rounding it would swallow."""
    net, x = GRU(1, 1, solver=MGRIT(levels=2, coarsening=8, iterations=2)), torch.zeros(512, 1, 1)
    for name, weight in net.named_parameters():
        nn.init.zeros_(weight)
        if name == "bias_ih_l0":
            with torch.no_grad():
                weight.copy_(torch.tensor([0.0, 8.3177, 0.5]))  # σ(8.3177) = 1 − 2⁻¹²
    exact = net(x, torch.ones(1, 1, 1))[0]
    with autocast():
        came = net(x, torch.ones(1, 1, 1))[0]
    assert exact[-1] < 0.95
    assert relative_error(1 - came, 1 - exact) < 16 * EPSILON[BF16]


def test_networks_of_other_precisions_compute_in_theirs() -> None:
    x = torch.randn(T, B, F)
    for dtype in (torch.float64, BF16):
        net = GRU(F, H, dtype=dtype)
        with autocast():
            came = results(net, x.to(dtype))
        for low, right in zip(came, results(net, x.to(dtype)), strict=True):
            assert low.dtype == dtype and torch.equal(low, right)


@pytest.mark.parametrize("kind", CLASSES)
def test_second_derivatives_and_a_backward_inside(kind: str) -> None:
    net, _ = pair(kind, Serial())
    x = torch.randn(T, B, F, requires_grad=True)
    for backward_in in (nullcontext(), autocast()):
        with autocast():
            y = results(net, x)[0]
        with backward_in:
            loss = y.float().square().sum()
            (first,) = torch.autograd.grad(loss, x, retain_graph=True)
            with Products() as seen:
                (with_graph,) = torch.autograd.grad(loss, x, create_graph=True)
        assert_close_relative(with_graph, first, tolerance=4 * EPSILON[BF16])
        assert seen.dtypes == {BF16}
        (second,) = torch.autograd.grad(with_graph.square().sum(), x)
        assert second.isfinite().all() and second.any()


def test_lengths_and_resets() -> None:
    x, lengths, resets = torch.randn(T, B, F, requires_grad=True), torch.tensor([T, 9, 4]), torch.rand(T, B) < 0.2
    for kind in CLASSES:
        net, _ = pair(kind, bidirectional=True)
        came = everything(net, x, None, autocast(), lengths=lengths, resets=resets)
        for low, right in zip(came, everything(net, x, None, lengths=lengths, resets=resets), strict=True):
            assert 0 < relative_error(low, right) < 8 * EPSILON[BF16]
        assert not came[0][9:, 1].any()
