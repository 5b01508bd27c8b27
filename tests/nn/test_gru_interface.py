"""The GRU as a module among PyTorch's: modes, copies, dtypes, graphs, what it keeps, what it counts."""

import copy
import gc
import io
import itertools
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import TorchFunctionMode

from lpgpu import GRU, MGRIT, Parareal, Serial, SolveResult
from tests.assertions import TOLERANCE, assert_close_relative, relative_error

FEATURES, WIDTH, STEPS, BATCH = 3, 4, 20, 2
SOLVERS: dict[str, MGRIT | Serial] = {
    "default": MGRIT(),
    "C-points": MGRIT(store="c_points", chunk=2),
    "Parareal": Parareal(),
    "Serial": Serial(),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny shapes gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=SOLVERS)
def solver(request: pytest.FixtureRequest) -> MGRIT | Serial:
    """Inexact ones among them: what is demanded here holds for any."""
    return SOLVERS[request.param]


def network(num_layers: int = 2, *, dtype: torch.dtype = torch.float64, **options: Any) -> GRU:
    return GRU(FEATURES, WIDTH, num_layers, dtype=dtype, **options)


def inputs(steps: int = STEPS, *, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> Tensor:
    """Fresh [T, B, features]."""
    return torch.randn(steps, BATCH, FEATURES, dtype=dtype).requires_grad_(requires_grad)


def gradients(gru: GRU, *calls: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Of Σ ⟨weight, output⟩ over the calls (x, weight), in every parameter; each call gets a backward of its own."""
    gru.zero_grad()
    for x, weight in calls:
        (gru(x)[0] * weight).sum().backward()
    return [parameter.grad.clone() for parameter in gru.parameters()]  # pyright: ignore


def assert_all_close(came: Any, expected: Any) -> None:
    for one, other in zip(came, expected, strict=True):
        assert_close_relative(one, other)


class TestDropout:
    @pytest.mark.parametrize("formulation", ["implicit", "classic"])
    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_one_mask_between_two_layers_serves_forward_and_backward(
        self, formulation: Any, bidirectional: bool, seed: int
    ) -> None:
        """As two GRUs of one layer with torch's own dropout between: also while MGRIT is inexact."""
        solver = MGRIT() if formulation == "implicit" else Serial()
        options = {"formulation": formulation, "bidirectional": bidirectional, "solver": solver, "dtype": torch.float64}
        gru = GRU(FEATURES, WIDTH, 2, dropout=0.5, **options)
        layers = [GRU(FEATURES, WIDTH, **options), GRU(WIDTH * (2 if bidirectional else 1), WIDTH, **options)]
        for i, layer in enumerate(layers):
            own = {name: t for name, t in gru.state_dict().items() if f"_l{i}" in name}
            layer.load_state_dict({name.replace(f"_l{i}", "_l0"): t for name, t in own.items()})
        x = inputs(requires_grad=True)

        torch.manual_seed(seed)
        output, h_n = gru(x)
        torch.manual_seed(seed)
        between, first = layers[0](x)
        expected, last = layers[1](F.dropout(between, 0.5))
        assert_all_close((output, h_n), (expected, torch.cat([first, last])))
        weight = torch.randn_like(output)
        came = torch.autograd.grad(output, (x, *gru.parameters()), weight)
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        assert_all_close(came, torch.autograd.grad(expected, (x, *parameters), weight))

    def test_it_draws_torchs_masks(self, seed: int) -> None:
        """A drop-in in training too: classic, serially, after the same seed."""
        ours = network(3, dropout=0.3, formulation="classic", solver=Serial())
        theirs = nn.GRU(FEATURES, WIDTH, 3, dropout=0.3, dtype=torch.float64)
        theirs.load_state_dict(ours.state_dict())
        x = inputs()
        torch.manual_seed(seed)
        output, _ = ours(x)
        torch.manual_seed(seed)
        assert_close_relative(output, theirs(x)[0])

    def test_all_is_dropped_but_the_last_layers_own_work(self) -> None:
        gru = network(2, dropout=1.0)
        with torch.no_grad():
            output = gru(inputs())[0]
            assert torch.equal(output, gru(inputs())[0]), "of the input nothing comes through"
        assert (output != 0).all(), "but the last layer's output is not dropped"

    def test_it_is_off_in_eval(self) -> None:
        gru, x = network(2, dropout=0.9), inputs()
        without = network(2)
        without.load_state_dict(gru.state_dict())
        assert not torch.equal(gru(x)[0], gru(x)[0])
        gru.eval()
        assert torch.equal(gru(x)[0], without(x)[0])

    def test_on_one_layer_it_warns_as_torch_does(self) -> None:
        with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
            network(1, dropout=0.5)


class TestCopies:
    def test_deepcopy_is_independent(self, solver: MGRIT | Serial) -> None:
        gru, x = network(bidirectional=True, solver=solver), inputs()
        gru(x)[0].sum().backward()
        twin = copy.deepcopy(gru)
        assert_all_close(twin(x), gru(x))
        with torch.no_grad():
            twin.weight_hh_l0.add_(1)
        assert not torch.equal(twin(x)[0], gru(x)[0])
        twin.solver = Parareal(iterations=7)
        assert gru.solver == solver
        before = list(gru.forward_results)
        twin(x)
        assert gru.forward_results == before

    def test_it_is_saved_and_loaded_whole(self) -> None:
        gru, x = network(formulation="classic", dt=0.5, solver=Parareal()), inputs()
        gru(x)[0].sum().backward()
        file = io.BytesIO()
        torch.save(gru, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert (loaded.formulation, loaded.dt, loaded.solver) == ("classic", 0.5, Parareal())
        assert_all_close(loaded(x), gru(x))

    def test_flatten_parameters_may_be_called_at_any_time(self) -> None:
        gru, x = network(), inputs()
        gru.flatten_parameters()
        expected = gru(x)
        gru.flatten_parameters()
        assert_all_close(gru(x), expected)

    def test_repr_says_what_it_is(self) -> None:
        for word in ("GRU(3, 4", "num_layers=2"):
            assert word in repr(network())


class TestDtypes:
    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    def test_every_dtype_computes_what_fp64_does(self, dtype: torch.dtype, solver: MGRIT | Serial) -> None:
        gru = network(solver=solver).to(dtype)
        x, h_0 = inputs(dtype=dtype), torch.randn(2, BATCH, WIDTH, dtype=dtype)
        exact = copy.deepcopy(gru).double()
        weight = torch.randn(STEPS, BATCH, WIDTH, dtype=dtype)
        came, expected = gru(x, h_0), exact(x.double(), h_0.double())
        assert {t.dtype for t in came} == {dtype}
        assert_all_close(came, expected)
        grads = torch.autograd.grad(came[0], list(gru.parameters()), weight)
        assert {gradient.dtype for gradient in grads} == {dtype}
        assert_all_close(grads, torch.autograd.grad(expected[0], list(exact.parameters()), weight.double()))

    def test_built_in_a_dtype_and_converted_to_it_are_one(self, seed: int) -> None:
        torch.manual_seed(seed)
        built = network(dtype=torch.float32)
        assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}
        assert {parameter.dtype for parameter in built.double().parameters()} == {torch.float64}


class TestGraphs:
    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_no_graph_without_gradients(self, context: Any, solver: MGRIT | Serial) -> None:
        gru, x = network(solver=solver), inputs()
        expected = gru(x)
        with context():
            came = gru(x)
        assert not any(t.requires_grad or t.grad_fn is not None for t in came)
        assert all(torch.equal(one, other) for one, other in zip(came, expected, strict=True))

    def test_no_graph_of_frozen_weights_and_plain_input(self) -> None:
        gru = network().requires_grad_(False)
        assert not any(t.requires_grad for t in gru(inputs()))

    def test_a_graph_dies_with_its_output(self, solver: MGRIT | Serial) -> None:
        output, h_n = network(1, solver=solver)(inputs())
        node = weakref.ref(output.grad_fn)
        del output, h_n
        gc.collect()
        assert node() is None

    @pytest.mark.parametrize("grad", [True, False])
    def test_repeated_steps_leave_nothing_behind(self, solver: MGRIT | Serial, grad: bool) -> None:
        gru = network(solver=solver)

        def live_tensors() -> int:
            gc.collect()
            return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

        def step() -> None:
            gru.zero_grad(set_to_none=False)
            with torch.set_grad_enabled(grad):
                loss = gru(inputs())[0].square().sum()
            if grad:
                loss.backward()

        step()
        step()  # from now on every gradient has a Python object
        before = live_tensors()
        for _ in range(3):
            step()
        assert live_tensors() <= before

    def test_gradients_accumulate(self, solver: MGRIT | Serial) -> None:
        gru = network(solver=solver)
        one, other = ((inputs(), torch.randn(STEPS, BATCH, WIDTH, dtype=torch.float64)) for _ in range(2))
        expected = [a + b for a, b in zip(gradients(gru, one), gradients(gru, other), strict=True)]
        assert_all_close(gradients(gru, one, other), expected)

    @pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["first first", "last first"])
    def test_two_forwards_before_a_backward(self, order: list[int], solver: MGRIT | Serial) -> None:
        """Of different lengths, and in whichever order they are differentiated."""
        gru = network(solver=solver)
        xs = [inputs(STEPS), inputs(STEPS + 7)]
        losses = [torch.randn(len(x), BATCH, WIDTH, dtype=torch.float64) for x in xs]
        expected = [torch.autograd.grad(gru(x)[0], list(gru.parameters()), w) for x, w in zip(xs, losses, strict=True)]
        outputs = [gru(x)[0] for x in xs]
        for i in order:
            assert_all_close(torch.autograd.grad(outputs[i], list(gru.parameters()), losses[i]), expected[i])

    def test_backward_twice_through_one_graph(self, solver: MGRIT | Serial) -> None:
        gru = network(solver=solver)
        output, h_n = gru(inputs())
        parameters = list(gru.parameters())
        loss = output.square().sum() + h_n.sum()
        once = torch.autograd.grad(loss, parameters, retain_graph=True)
        for one, other in zip(torch.autograd.grad(loss, parameters), once, strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("num_layers", [1, 2])
    def test_output_and_h_n_changed_in_place_corrupt_nothing(self, num_layers: int, solver: MGRIT | Serial) -> None:
        gru, x = network(num_layers, solver=solver), inputs(requires_grad=True)
        wanted = (x, *gru.parameters())
        weight = torch.randn(STEPS, BATCH, WIDTH, dtype=torch.float64)
        expected = torch.autograd.grad((weight * gru(x)[0]).sum(), wanted)
        output, h_n = gru(x)
        kept = h_n.detach().clone()
        output.mul_(3).add_(1)
        assert torch.equal(h_n, kept)
        h_n.zero_()
        assert_all_close(torch.autograd.grad((weight / 3 * output).sum(), wanted), expected)

    def test_detached_output_changed_in_place_corrupts_nothing(self, solver: MGRIT | Serial) -> None:
        """Behind autograd's back: the states that the adjoint is linearised at are nobody else's."""
        gru, x = network(1, solver=solver), inputs()
        expected = torch.autograd.grad(gru(x)[0].square().sum(), list(gru.parameters()))
        output, h_n = gru(x)
        weight = 2 * output.detach().clone()
        output.detach().fill_(torch.nan)
        h_n.detach().fill_(torch.nan)
        assert_all_close(torch.autograd.grad(output, list(gru.parameters()), weight), expected)

    @pytest.mark.parametrize("which", ["weight_hh_l0", "bias_hh_l0", "weight_ih_l1"])
    def test_weights_changed_before_backward_are_noticed(self, which: str, solver: MGRIT | Serial) -> None:
        gru = network(solver=solver)
        output, _ = gru(inputs())
        with torch.no_grad():
            gru.get_parameter(which).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()

    def test_h_0_changed_before_backward_is_not(self, solver: MGRIT | Serial) -> None:
        gru, x, h_0 = network(1, solver=solver), inputs(), torch.randn(1, BATCH, WIDTH, dtype=torch.float64)
        expected = torch.autograd.grad(gru(x, h_0)[0].square().sum(), list(gru.parameters()))
        output, _ = gru(x, h_0)
        h_0.fill_(torch.nan)
        assert_all_close(torch.autograd.grad(output.square().sum(), list(gru.parameters())), expected)

    @pytest.mark.parametrize(
        "wanted", [w for k in (1, 2) for w in itertools.combinations(["input", "h_0", "weight_hh_l0", "bias_ih_l0"], k)]
    )
    def test_any_part_may_want_a_gradient_alone(self, wanted: tuple[str, ...]) -> None:
        gru, x = network(1), inputs()
        h_0 = torch.randn(1, BATCH, WIDTH, dtype=torch.float64)
        named = {"input": x, "h_0": h_0, **dict(gru.named_parameters())}
        weight = torch.randn(STEPS, BATCH, WIDTH, dtype=torch.float64)
        for tensor in named.values():
            tensor.requires_grad_()
        expected = torch.autograd.grad(gru(x, h_0)[0], [named[name] for name in wanted], weight)
        for name, tensor in named.items():
            tensor.requires_grad_(name in wanted)
        gru(x, h_0)[0].backward(weight)
        assert_all_close([named[name].grad for name in wanted], expected)
        assert all(tensor.grad is None for name, tensor in named.items() if name not in wanted)

    def test_calls_keep_no_state(self, solver: MGRIT | Serial) -> None:
        """A call is the same whatever was called before it."""
        gru, x = network(bidirectional=True, solver=solver), inputs()
        fresh = copy.deepcopy(gru)
        gru(inputs(33))[0].square().sum().backward()
        with torch.no_grad():
            gru(inputs(5), lengths=torch.tensor([5, 2]))
        gru.zero_grad()
        for one, other in zip(gru(x), fresh(x), strict=True):
            assert torch.equal(one, other)
        gru(x)[0].sum().backward()
        fresh(x)[0].sum().backward()
        for one, other in zip(gru.parameters(), fresh.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)  # pyright: ignore


class TestWeightsFromElsewhere:
    def test_functional_call(self) -> None:
        gru, other, x = network(), network(), inputs()
        came = torch.func.functional_call(gru, dict(other.named_parameters()), (x,))
        weight = torch.randn(STEPS, BATCH, WIDTH, dtype=torch.float64)
        assert_all_close(came, other(x))
        assert_all_close(
            torch.autograd.grad(came[0], list(other.parameters()), weight),
            torch.autograd.grad(other(x)[0], list(other.parameters()), weight),
        )

    def test_parametrized_weights(self) -> None:
        gru, x = network(1), inputs()
        expected = gru(x)[0]
        weight_norm(gru, "weight_hh_l0")
        assert_close_relative(gru(x)[0], expected)
        gru(x)[0].sum().backward()
        assert all(parameter.grad is not None for parameter in gru.parameters())

    def test_an_optimizer_trains_as_it_does_with_the_serial_solve(self) -> None:
        x = inputs(32)
        target = x.cumsum(0)[..., :1].tanh()

        def losses(gru: GRU, closing: nn.Linear) -> list[float]:
            optimizer = torch.optim.Adam([*gru.parameters(), *closing.parameters()], lr=2e-2)
            history = []
            for _ in range(20):
                optimizer.zero_grad()
                loss = F.mse_loss(closing(gru(x)[0]), target)
                loss.backward()
                optimizer.step()
                history.append(loss.item())
            return history

        gru, closing = network(1), nn.Linear(WIDTH, 1, dtype=torch.float64)
        serial = copy.deepcopy(gru)
        serial.solver = Serial()
        expected = losses(serial, copy.deepcopy(closing))
        assert expected[-1] < 0.9 * expected[0]
        assert losses(gru, closing) == pytest.approx(expected, rel=0.05)


class TestResults:
    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_of_every_layer_and_direction(self, bidirectional: bool, solver: MGRIT | Serial) -> None:
        gru = network(3, bidirectional=bidirectional, solver=solver)
        solves = 6 if bidirectional else 3
        assert gru.forward_results == gru.adjoint_results == [None] * solves
        output, _ = gru(inputs())
        assert [type(result) for result in gru.forward_results] == [SolveResult] * solves
        assert gru.adjoint_results == [None] * solves
        output.sum().backward()
        assert [type(result) for result in gru.adjoint_results] == [SolveResult] * solves
        assert len({id(result) for result in (*gru.forward_results, *gru.adjoint_results)}) == 2 * solves

    def test_they_say_what_each_solve_did(self) -> None:
        gru = network(2, solver=MGRIT(iterations=3, adjoint_iterations=2))
        gru(inputs(64))[0].sum().backward()
        for forward, adjoint in zip(gru.forward_results, gru.adjoint_results, strict=True):
            assert forward is not None and adjoint is not None
            assert (forward.iterations, adjoint.iterations) == (3, 2)
            assert len(forward.residual_norms) == 3 and len(adjoint.residual_norms) == 2
            assert forward.residual_norms[2] < 0.1 * forward.residual_norms[0]

    def test_a_tolerance_ends_a_solve_early(self) -> None:
        gru = network(1, solver=MGRIT(iterations=20, tolerance=1e-6, adjoint_iterations=20, adjoint_tolerance=1e-6))
        gru(inputs(128))[0].sum().backward()
        for result in (*gru.forward_results, *gru.adjoint_results):
            assert result is not None and result.converged and 0 < result.iterations < 16

    @pytest.mark.parametrize(("steps", "coarsening", "part"), [(128, 4, 2), (1024, 8, 6)])
    def test_depth_is_a_fraction_of_the_sequence(self, steps: int, coarsening: int, part: int) -> None:
        """Per solve, forward and adjoint, in one cycle; the serial solve's is T."""
        gru = network(1, solver=MGRIT(coarsening=coarsening, iterations=1))
        gru(inputs(steps))[0].sum().backward()
        for result in (*gru.forward_results, *gru.adjoint_results):
            assert result is not None and result.sequential_depth <= steps / part
        gru.solver = Serial()
        gru(inputs(steps))
        assert gru.forward_results[0].sequential_depth == steps  # pyright: ignore

    def test_depth_of_a_layer_and_a_batch_of_any_size_is_the_same(self) -> None:
        gru, depths = network(2), set()
        for batch in (1, 5):
            gru(torch.randn(64, batch, FEATURES, dtype=torch.float64))
            depths |= {result.sequential_depth for result in gru.forward_results}  # pyright: ignore
        assert len(depths) == 1


class CountProducts(TorchFunctionMode):
    """Counts the rows that go through F.linear, by the shape of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[int, ...]] = Counter()
        self.rows: Counter[tuple[int, ...]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            self.calls[tuple(args[1].shape)] += 1
            self.rows[tuple(args[1].shape)] += args[0].numel() // args[0].shape[-1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_input_product_is_one_product_for_all_steps_levels_and_cycles(bidirectional: bool) -> None:
    """W_i x + b_i, once in a forward; W_h h only at the states, and backward asks for neither."""
    gru = GRU(7, WIDTH, bidirectional=bidirectional, solver=MGRIT(levels=3, coarsening=2, iterations=3))
    x = torch.randn(STEPS, BATCH, 7)
    directions = 2 if bidirectional else 1
    with CountProducts() as products:
        output, _ = gru(x)
        assert products.calls[3 * WIDTH, 7] == directions
        assert products.rows[3 * WIDTH, 7] == directions * STEPS * BATCH
        evaluations = sum(sum(result.evaluations) for result in gru.forward_results if result)
        assert products.rows[3 * WIDTH, WIDTH] == BATCH * evaluations
        before = products.rows.copy()
        output.sum().backward()
        assert products.rows[3 * WIDTH, 7] == before[3 * WIDTH, 7]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("store", ["all", "c_points"])
def test_sequences_shorter_than_the_coarsening(steps: int, store: Any) -> None:
    gru = network(2, bidirectional=True, solver=MGRIT(coarsening=4, store=store))
    serial = copy.deepcopy(gru)
    serial.solver = Serial()
    x = inputs(steps, requires_grad=True)
    weight = torch.randn(steps, BATCH, 2 * WIDTH, dtype=torch.float64)
    came, expected = gru(x), serial(x)
    assert_all_close(came, expected)
    assert_all_close(*(torch.autograd.grad(each[0], x, weight) for each in (came, expected)))


def test_the_solver_may_change_between_forward_and_backward() -> None:
    """A graph keeps the solver that it was made with."""
    gru, x = network(1, solver=MGRIT(iterations=1)), inputs(64)
    parameters = list(gru.parameters())
    expected = torch.autograd.grad(gru(x)[0].square().sum(), parameters)
    output, _ = gru(x)
    gru.solver = Serial()
    assert_all_close(torch.autograd.grad(output.square().sum(), parameters), expected)
    assert relative_error(gru(x)[0], output) > 1e-12


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_empty_batch_passes_through_as_in_torch(batch_first: bool) -> None:
    ours, theirs = (kind(FEATURES, WIDTH, 2, batch_first=batch_first) for kind in (GRU, nn.GRU))
    x = torch.randn(0, 9, FEATURES) if batch_first else torch.randn(9, 0, FEATURES)
    assert [t.shape for t in ours(x)] == [t.shape for t in theirs(x)]


def test_the_printed_gru_tells_what_it_computes() -> None:
    assert "formulation='classic'" in repr(GRU(3, 4)) and "MGRIT(" in repr(GRU(3, 4))
