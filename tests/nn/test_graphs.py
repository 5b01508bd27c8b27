"""Solves replayed from recordings: the numbers of solves that run, with the weights of now, in a bounded number."""

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, DivergenceWarning, LayerParallel, Serial
from lpgpu.mgrit import cycle, relaxation
from lpgpu.nn import ConvBlock, DenseBlock
from lpgpu.nn.graphs import Graphs, GraphWarning
from lpgpu.nn.recorder import CudaGraphs
from lpgpu.nn.solver_module import SolverModule
from tests.nn.recorded import CPURecorder

SOLVERS = {
    "default": MGRIT(coarsening=2),
    "two levels": MGRIT(levels=2, coarsening=4, iterations=1, adjoint_iterations=1, relaxation="F"),
    "c_points": MGRIT(levels=2, coarsening=4, store="c_points"),
    "serial": Serial(),
}
NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "dense": (lambda: LayerParallel(None, lambda: DenseBlock(5), 13, 1.0), (3, 5)),
    "convolution": (lambda: LayerParallel(None, lambda: ConvBlock(2, convolutions=2), 9, 1.0), (2, 2, 4, 5)),
    "GRU": (lambda: GRU(3, 4, num_layers=2, bidirectional=True), (14, 2, 3)),
}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Those of every network within the test."""
    graphs = Graphs(CPURecorder())
    monkeypatch.setattr(SolverModule, "graphs", graphs)
    return graphs


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and all gradients."""
    net.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    y = net(x)
    y = torch.cat([each.flatten() for each in y]) if isinstance(y, tuple) else y.flatten()
    (y * torch.linspace(-1, 1, y.numel())).sum().backward()
    gradients = [p.grad for p in net.parameters()]
    return [y.detach(), *(t.clone() for t in (x.grad, *gradients) if t is not None)]


def off(graphs: Graphs, run: Callable[[], list[Tensor]]) -> list[Tensor]:
    """What runs, without a graph."""
    with patch.object(graphs.recorder, "refusal", lambda device: "not now"):
        return run()


def equal(came: list[Tensor], expected: list[Tensor]) -> bool:
    return len(came) == len(expected) and all(map(torch.equal, came, expected))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_replays_give_the_same_numbers_with_the_weights_of_now(network: str, solver: str, graphs: Graphs) -> None:
    build, shape = NETWORKS[network]
    net = build()
    net.solver = SOLVERS[solver]
    solves = 4 if network == "GRU" else 1
    for use in range(5):
        x = torch.randn(shape)
        came = step(net, x)
        assert equal(came, off(graphs, lambda x=x: step(net, x)))
        with torch.no_grad():
            for p in net.parameters():
                p += 0.05 * torch.randn_like(p)
        assert graphs.recorded == (0 if use == 0 else 2 * solves)
    assert graphs.replayed == 4 * 2 * solves


def test_results_are_those_of_each_call(graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0, solver=MGRIT(coarsening=2, iterations=2))
    results = []
    for scale in (1.0, 2.0, 3.0, 4.0):
        step(net, scale * torch.ones(3, 5))
        results.append((net.forward_result, net.adjoint_result))
    for scale, pair in zip((1.0, 2.0, 3.0, 4.0), results, strict=True):
        off(graphs, lambda scale=scale: step(net, scale * torch.ones(3, 5)))
        for came, expected in zip(pair, (net.forward_result, net.adjoint_result), strict=True):
            assert came.residual_norms == expected.residual_norms
            assert came.evaluations == expected.evaluations


def test_two_calls_before_one_backward_do_not_share_a_recording(graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0)
    inputs = [torch.randn(3, 5) for _ in range(3)]

    def together() -> list[Tensor]:
        net.zero_grad(set_to_none=True)
        first, second, third = (net(x) for x in inputs)
        (first * second.sin() * third).sum().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    expected = off(graphs, together)
    for _ in range(4):
        assert equal(together(), expected)
    assert graphs.replayed > 10


def test_backward_twice_and_gradients_that_add_up(graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0)
    x = torch.randn(3, 5)

    def accumulated() -> list[Tensor]:
        net.zero_grad(set_to_none=True)
        y = net(x)
        y.sum().backward(retain_graph=True)
        y.square().sum().backward()
        net(2 * x).sum().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    expected = off(graphs, accumulated)
    for _ in range(4):
        assert equal(accumulated(), expected)


def test_an_output_and_a_gradient_are_not_written_to_later(graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0)
    kept = []
    for _ in range(4):
        came = step(net, torch.randn(3, 5))
        raw = [net(torch.randn(3, 5)).detach(), *(p.grad for p in net.parameters())]
        kept.append((came, [t.clone() for t in came], raw, [t.clone() for t in raw]))
    for came, copies, raw, raw_copies in kept:
        assert equal(came, copies) and equal(raw[:1], raw_copies[:1])


def test_the_number_of_recordings_is_bounded_and_the_oldest_goes(graphs: Graphs) -> None:
    graphs.limit = 2
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0)
    for batch in (1, 2, 3, 4, 1, 1):
        for _ in range(2):
            x = torch.randn(batch, 5)
            came = step(net, x)
            assert equal(came, off(graphs, lambda x=x: step(net, x)))
            assert len(graphs._slots) <= 2


def test_where_all_are_taken_a_solve_runs_as_it_is(graphs: Graphs) -> None:
    graphs.limit = 2
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0)
    x = torch.randn(3, 5)
    outputs = [net(x) for _ in range(5)]
    assert graphs.recorded == 2
    assert all(torch.equal(y, outputs[0]) for y in outputs)
    del outputs
    gc.collect()
    net(x)
    assert graphs.recorded == 2 and graphs.replayed == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net, "solver", MGRIT(levels=2, coarsening=2)),
        lambda net: setattr(net.layers.linear, "weight", nn.Parameter(torch.randn_like(net.layers.linear.weight))),
        lambda net: setattr(net, "Tf", 2.0),
        lambda net: setattr(net.layers, "activation", DenseBlock(5, "relu").activation),
    ],
    ids=["solver", "weight", "Tf", "activation"],
)
def test_what_a_solve_depends_on_is_in_its_key(change: Callable[[Any], None], graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0)
    x = torch.randn(3, 5)
    for _ in range(3):
        step(net, x)
    change(net)
    for _ in range(3):
        assert equal(step(net, x), off(graphs, lambda: step(net, x)))


def test_parameters_that_want_a_gradient_now_and_not_before(graphs: Graphs) -> None:
    net, x = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0), torch.randn(3, 5)
    for wanted in (False, True, False):
        net.requires_grad_(wanted)
        for _ in range(3):
            came = step(net, x)
            assert len(came) == (4 if wanted else 2)
            assert equal(came, off(graphs, lambda: step(net, x)))


def test_without_gradients(graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0)
    for context in (torch.no_grad, torch.inference_mode):
        for _ in range(3):
            x = torch.randn(3, 5)
            with context():
                assert torch.equal(net(x), off(graphs, lambda x=x: [net(x)])[0])
    assert graphs.recorded == 1


def test_a_block_of_unknown_kind_is_left_alone(graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: nn.Sequential(nn.Linear(5, 5), nn.Tanh()), 13, 1.0)
    for _ in range(3):
        step(net, torch.randn(3, 5))
    assert graphs.recorded == graphs.replayed == 0


def waits(*arguments: Any, **named: Any) -> None:
    """In the place of what a solve does and no recording can."""
    torch.ones(1).item()


def test_what_cannot_be_recorded_runs_and_says_so_once(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0)
    x = torch.randn(3, 5)
    step(net, x)
    relax = relaxation.f_relax
    monkeypatch.setattr(cycle, "f_relax", lambda *given, **named: (waits(), relax(*given, **named)))
    with pytest.warns(GraphWarning, match=r"cannot be recorded .* waits for the device"):
        came = step(net, x)
    assert equal(came, off(graphs, lambda: step(net, x)))
    step(net, x)
    assert len(graphs.refusals) == 1 and not graphs._slots


def test_always_is_an_error_where_it_cannot_be(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    solver, x = MGRIT(levels=2, cuda_graph=True), torch.randn(3, 5)
    net = LayerParallel(None, lambda: nn.Sequential(nn.Linear(5, 5), nn.Tanh()), 13, 1.0, solver=solver)
    with pytest.raises(RuntimeError, match=r'cuda_graph is True, but only DenseBlock.*cuda_graph="auto"'):
        net(x)
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0, solver=solver)
    with pytest.raises(RuntimeError, match="the tensors are on cpu"), patch.object(graphs, "recorder", CudaGraphs()):
        net(x)
    step(net, x)
    relax = relaxation.f_relax
    monkeypatch.setattr(cycle, "f_relax", lambda *given, **named: (waits(), relax(*given, **named)))
    with pytest.raises(RuntimeError, match="waits for the device"):
        step(net, x)
    with pytest.raises(ValueError, match=r'tolerance waits for the device.*cuda_graph="auto"'):
        MGRIT(tolerance=1e-3, cuda_graph=True)
    with pytest.raises(ValueError, match="cuda_graph is 'on'; expected one of 'auto', True, False"):
        Serial(cuda_graph="on")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("solver", [MGRIT(cuda_graph=False), MGRIT(tolerance=1e-3), Serial(cuda_graph=False)])
def test_where_none_is_wanted_or_a_tolerance_waits(solver: MGRIT | Serial, graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5), 13, 1.0, solver=solver)
    for _ in range(3):
        step(net, torch.randn(3, 5))
    assert graphs.recorded == 0


def test_ever_other_shapes_are_given_up(graphs: Graphs) -> None:
    graphs.limit = 2
    net = GRU(2, 3)
    with torch.no_grad():
        for _ in range(3):
            for steps in range(5, 15):
                net(torch.randn(steps, 1, 2))
    assert graphs.recorded <= 2 + 2 + 1


def test_a_replayed_solve_that_diverges_is_reported(graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5, "relu"), 16, 1.0, solver=MGRIT(levels=2))
    x = torch.ones(3, 5)
    for _ in range(2):
        net(x)
    with torch.no_grad():
        net.layers.linear.weight.fill_(torch.inf)
    with pytest.warns(DivergenceWarning, match="non-finite"):
        net(x)
    assert graphs.replayed == 2


def test_copies_and_pickles_begin_without_any() -> None:
    graphs = Graphs(CPURecorder(), limit=3)
    graphs.forward(lambda x: (None, (x,), None), (torch.ones(1),), (), "what")
    for other in (copy.deepcopy(graphs), pickle.loads(pickle.dumps(graphs))):
        assert not other._slots and not other._uses and other.recorded == 0


def test_a_replay_is_few_operations(graphs: Graphs) -> None:
    net = LayerParallel(None, lambda: DenseBlock(5), 64, 1.0)
    x = torch.randn(3, 5)
    for _ in range(2):
        step(net, x)
    recorder: Any = graphs.recorder
    counted = _Counted(recorder)
    with counted:
        net(x)
    assert recorder.operations > 1000
    assert counted.outside <= 16  # with what checks the input on a CPU


class _Counted(torch.utils._python_dispatch.TorchDispatchMode):
    """Operations outside of replays."""

    def __init__(self, recorder: CPURecorder) -> None:
        super().__init__()
        self.recorder, self.outside = recorder, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.outside += not self.recorder.is_replaying
        return func(*args, **(kwargs or {}))
