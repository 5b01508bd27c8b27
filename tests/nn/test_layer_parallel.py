"""The contract of a LayerParallel network as a PyTorch module."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, LayerParallel, Parareal, Serial
from lpgpu.nn import DenseBlock
from tests.assertions import (
    TOLERANCE,
    assert_close_relative,
    assert_equals_serial,
    assert_same_derivatives,
    derivatives,
    relative_error,
    serial_oracle,
)
from tests.nn.networks import BLOCKS, WIDTH, Pendulum, exactly, inputs, mlp, network

# none of these solves diverges, so none may say so
pytestmark = pytest.mark.filterwarnings("error::lpgpu.DivergenceWarning")


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


class TestValues:
    @pytest.mark.parametrize("block", BLOCKS)
    def test_shape_dtype_and_results(self, block: str) -> None:
        build, form, shape = BLOCKS[block]
        net = network(build, form=form)
        assert (net.forward_result, net.adjoint_result) == (None, None)
        y = net(inputs(*shape, requires_grad=True))
        assert (y.shape, y.dtype, y.is_contiguous()) == (shape, torch.float64, True)
        assert net.forward_result is not None and net.forward_result.iterations == 2
        assert len(net.forward_result.residual_norms) == 2
        y.sum().backward()
        assert net.adjoint_result is not None and net.adjoint_result.iterations == 1

    @pytest.mark.parametrize("form", ["rhs", "step"])
    def test_the_step_is_tf_over_the_layers(self, form: Any) -> None:
        class Constant(nn.Module):
            def forward(self, *arguments: Any) -> Tensor:
                *dt, u = arguments
                return u + dt[0] if dt else torch.ones_like(u)

        net = network(Constant, 20, Tf=3.0, form=form, solver=exactly(20))
        assert net.dt == 3.0 / 20
        x = inputs()
        assert_close_relative(net(x), x + 3.0)

    @pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
    def test_a_scheme_has_its_order(self, scheme: str, order: int) -> None:
        """u′ = −u over Tf = 1 from halved steps: the error falls by 2^order."""

        class Decay(nn.Module):
            def forward(self, u: Tensor) -> Tensor:
                return -u

        def error(num_steps: int) -> float:
            x = torch.ones(1, 1, dtype=torch.float64)
            y = network(Decay, num_steps, scheme=scheme, solver=exactly(num_steps))(x)
            return abs(float(y) - 2.718281828459045**-1)

        assert error(16) / error(32) == pytest.approx(2**order, rel=0.1)

    def test_a_smaller_last_batch(self) -> None:
        net = network(solver=exactly())
        for batch in (5, 5, 2, 1):
            assert_equals_serial(net, inputs(batch, WIDTH))

    @pytest.mark.parametrize("block", ["dense", "two linear layers"])
    def test_an_empty_batch(self, block: str) -> None:
        net = network(BLOCKS[block][0])
        x = inputs(0, WIDTH, requires_grad=True)
        y = net(x)
        y.sum().backward()
        assert y.shape == (0, WIDTH)
        assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients(net))

    @pytest.mark.parametrize("shape", [(2, 3, WIDTH), (2, 1, 3, WIDTH)])
    def test_dense_states_of_more_dimensions(self, shape: tuple[int, ...]) -> None:
        assert_equals_serial(network(solver=exactly()), inputs(*shape))

    @pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4, 5)])
    def test_states_of_any_shape(self, shape: tuple[int, ...]) -> None:
        assert_equals_serial(network(Pendulum, solver=exactly()), inputs(*shape))

    def test_an_input_in_another_memory_order(self) -> None:
        net = network(solver=exactly())
        assert_equals_serial(net, inputs(WIDTH, 3).t())
        assert_equals_serial(net, inputs(1, WIDTH).expand(3, WIDTH))

    def test_the_input_is_left_alone_and_may_change(self) -> None:
        net, x, weight = network(solver=exactly()), inputs(), inputs()
        before, expected = x.clone(), serial_oracle(net, x, weight)
        y = net(x)
        assert torch.equal(x, before)
        x.zero_()
        y.backward(weight)
        for parameter, gradient in zip(net.parameters(), expected.dtheta.values(), strict=True):
            assert parameter.grad is not None
            assert_close_relative(parameter.grad, gradient)

    @pytest.mark.parametrize("solver", [MGRIT(), MGRIT(store="c_points"), Parareal(), Serial()], ids=type)
    def test_nothing_is_kept_between_calls(self, solver: Any) -> None:
        """The same call gives the same bits, whatever was computed before it."""
        net = network(solver=solver)
        fresh = copy.deepcopy(net)
        x, weight = inputs(), inputs()
        first = derivatives(net, x, weight)
        net(inputs(5, WIDTH)).sum().backward()
        with torch.no_grad():
            net(inputs(1, WIDTH))
        for again in (derivatives(net, x, weight), derivatives(fresh, x, weight)):
            assert_same_derivatives(again, first, tolerance=0.0)

    def test_the_solver_may_be_assigned_between_calls(self) -> None:
        net = network(num_steps=40)
        x, weight = inputs(), inputs()
        net.solver = Serial()
        assert_same_derivatives(derivatives(net, x, weight), serial_oracle(net, x, weight))
        assert net.forward_result is not None and net.forward_result.evaluations == (40,)
        net.solver = MGRIT(levels=2)
        net(x)
        assert len(net.forward_result.evaluations) == 2


class TestDtypes:
    @pytest.mark.parametrize("block", ["dense", "two linear layers", "step with gate and buffer"])
    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    def test_every_floating_type_runs_and_trains(self, block: str, dtype: torch.dtype) -> None:
        """Rounded to `dtype`, the network still is what it is in fp64 with the same parameters."""
        build, form, shape = BLOCKS[block]
        net = network(build, dtype=dtype, form=form, solver=exactly())
        x, weight = inputs(*shape, dtype=dtype), inputs(*shape, dtype=dtype)
        came = derivatives(net, x, weight)
        expected = serial_oracle(copy.deepcopy(net).double(), x.double(), weight.double())
        assert {tensor.dtype for tensor in (came.y, came.dx, *came.dtheta.values())} == {dtype}
        assert_same_derivatives(came, expected)

    def test_to_and_back(self) -> None:
        net = network(dtype=torch.float32)
        x = inputs(dtype=torch.float32)
        before = net(x)
        assert net.double()(x.double()).dtype == torch.float64
        assert torch.equal(net.float()(x), before)

    def test_the_default_dtype_is_torchs(self) -> None:
        net = LayerParallel(None, lambda: DenseBlock(WIDTH), 6, 1.0)
        assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


class TestGraph:
    def test_two_backward_calls_accumulate(self) -> None:
        net = network(solver=exactly())
        x, weight = inputs(requires_grad=True), inputs()
        net(x).backward(weight)
        once, dx = gradients(net), x.grad
        assert dx is not None
        dx = dx.clone()
        net(x).backward(weight)
        assert x.grad is not None
        assert_close_relative(x.grad, 2 * dx)
        for gradient, single in zip(gradients(net), once, strict=True):
            assert_close_relative(gradient, 2 * single)

    @pytest.mark.parametrize("store", ["all", "c_points"])
    def test_two_forwards_before_one_backward(self, store: Any) -> None:
        net = network(solver=exactly(store=store))
        sequential = net.to_sequential()
        x1, x2 = inputs(), inputs(2, WIDTH)
        (net(x1).square().sum() + net(net(x2)).sum()).backward()
        (sequential(x1).square().sum() + sequential(sequential(x2)).sum()).backward()
        for name, parameter in net.layers.named_parameters():
            assert parameter.grad is not None
            expected = torch.stack([step.block.get_parameter(name).grad for step in sequential])  # pyright: ignore
            assert_close_relative(parameter.grad, expected, name)

    def test_backward_in_the_other_order(self) -> None:
        net = network(solver=exactly())
        x1, x2 = inputs(requires_grad=True), inputs(requires_grad=True)
        y1, y2 = net(x1), net(x2)
        y1.sum().backward()
        y2.sum().backward()
        for x in (x1, x2):
            assert x.grad is not None
            assert_close_relative(x.grad, serial_oracle(net, x, torch.ones_like(x)).dx)

    @pytest.mark.parametrize("loss", ["transposed", "expanded", "strided", "part"])
    def test_gradients_that_are_not_contiguous(self, loss: str) -> None:
        columns = torch.randn(WIDTH, 3, dtype=torch.float64)
        reduce = {
            "transposed": lambda y: (y.t() * columns).sum(),
            "expanded": lambda y: y.sum(),
            "strided": lambda y: y[:, ::2].square().sum(),
            "part": lambda y: y[0].square().sum(),
        }[loss]
        net, x = network(solver=exactly()), inputs(requires_grad=True)
        (came,) = torch.autograd.grad(reduce(net(x)), x)
        (expected,) = torch.autograd.grad(reduce(net.to_sequential()(x)), x)
        assert_close_relative(came, expected)

    def test_between_a_stem_and_a_head(self) -> None:
        net = network(solver=exactly())
        stem, head = nn.Linear(2, WIDTH).double(), nn.Linear(WIDTH, 2).double()
        plain = copy.deepcopy(nn.Sequential(stem, net.to_sequential(), head))
        x = inputs(3, 2)
        nn.functional.cross_entropy(head(net(stem(x))), torch.tensor([0, 1, 1])).backward()
        nn.functional.cross_entropy(plain(x), torch.tensor([0, 1, 1])).backward()
        for module, expected in ((stem, plain[0]), (head, plain[2])):
            for gradient, other in zip(gradients(module), gradients(expected), strict=True):
                assert_close_relative(gradient, other)

    @pytest.mark.parametrize("block", ["dense", "no parameters"])
    def test_a_second_backward_is_torchs_standard_error(self, block: str) -> None:
        build, _, shape = BLOCKS[block]
        loss = network(build)(inputs(*shape, requires_grad=True)).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()

    def test_a_retained_graph_can_be_walked_again(self) -> None:
        net, x = network(), inputs(requires_grad=True)
        loss = net(x).sum()
        once = torch.autograd.grad(loss, [x, *net.parameters()], retain_graph=True)
        again = torch.autograd.grad(loss, [x, *net.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))

    @pytest.mark.parametrize("block", ["dense", "two linear layers"])
    def test_parameters_changed_before_backward_are_torchs_standard_error(self, block: str) -> None:
        net = network(BLOCKS[block][0])
        y = net(inputs())
        with torch.no_grad():
            next(net.parameters()).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()

    @pytest.mark.parametrize("block", ["dense", "two linear layers"])
    def test_frozen_parameters_get_no_gradient_and_cost_the_others_nothing(self, block: str) -> None:
        net = network(BLOCKS[block][0], solver=exactly())
        x, weight = inputs(requires_grad=True), inputs()
        expected = serial_oracle(net, x, weight)
        frozen = next(name for name, _ in net.layers.named_parameters())
        net.layers.get_parameter(frozen).requires_grad_(False)
        net(x).backward(weight)
        assert net.layers.get_parameter(frozen).grad is None
        assert x.grad is not None
        assert_close_relative(x.grad, expected.dx)
        for name, parameter in net.layers.named_parameters():
            if name != frozen:
                assert parameter.grad is not None
                assert_close_relative(parameter.grad, expected.dtheta[name], name)

    def test_only_the_input_or_only_the_parameters(self) -> None:
        net, x, weight = network(solver=exactly()), inputs(), inputs()
        expected = serial_oracle(net, x, weight)
        net(x).backward(weight)
        assert x.grad is None
        for parameter, gradient in zip(net.parameters(), expected.dtheta.values(), strict=True):
            assert parameter.grad is not None
            assert_close_relative(parameter.grad, gradient)
        net.requires_grad_(False)
        x.requires_grad_()
        net(x).backward(weight)
        assert x.grad is not None
        assert_close_relative(x.grad, expected.dx)

    def test_without_anything_to_differentiate_there_is_no_graph(self) -> None:
        assert not network().requires_grad_(False)(inputs()).requires_grad
        assert not network(Pendulum)(inputs()).requires_grad

    @pytest.mark.parametrize(
        "build", [lambda: DenseBlock(3, "tanh"), lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh())]
    )
    @pytest.mark.parametrize("store", ["all", "c_points"])
    def test_gradcheck(self, build: Any, store: Any) -> None:
        net = network(build, 9, solver=MGRIT(levels=2, coarsening=3, iterations=2, adjoint_iterations=2, store=store))
        x = inputs(2, 3, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, *parameters: net(x), (x, *net.parameters()))


class TestInference:
    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_no_graph_without_gradients(self, context: Any) -> None:
        net, x = network(), inputs()
        expected = net(x)
        with context():
            y = net(x)
        assert not y.requires_grad and y.grad_fn is None
        assert torch.equal(y, expected)

    def test_eval_reaches_the_block(self) -> None:
        net = network(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5))).eval()
        net.solver = exactly()
        assert not net.layers.training
        assert_equals_serial(net, inputs())

    def test_a_graph_dies_with_its_output(self) -> None:
        y = network()(inputs())
        node = weakref.ref(y.grad_fn)
        del y
        gc.collect()
        assert node() is None


class TestParameters:
    def test_are_stacked_over_the_layers(self) -> None:
        shapes = {name: tuple(parameter.shape) for name, parameter in network(num_steps=7).named_parameters()}
        assert shapes == {"layers.linear.weight": (7, WIDTH, WIDTH), "layers.linear.bias": (7, WIDTH)}

    def test_buffers_are_stacked_and_no_parameters(self) -> None:
        build, form, _ = BLOCKS["step with gate and buffer"]
        net = network(build, 7, form=form)
        assert {name: tuple(buffer.shape) for name, buffer in net.named_buffers()} == {"layers.scale": (7, WIDTH)}
        assert {name for name, _ in net.named_parameters()} == {"layers.linear.weight", "layers.gate"}

    def test_state_dict_round_trip(self) -> None:
        build, form, _ = BLOCKS["step with gate and buffer"]
        one, other = (network(build, form=form) for _ in range(2))
        x = inputs()
        assert not torch.equal(one(x), other(x))
        other.load_state_dict(one.state_dict())
        assert torch.equal(one(x), other(x))

    def test_deepcopy_is_independent(self) -> None:
        net = network()
        x = inputs()
        net(x).sum().backward()
        twin = copy.deepcopy(net)
        assert torch.equal(twin(x), net(x))
        with torch.no_grad():
            next(twin.parameters()).add_(1)
        assert not torch.equal(twin(x), net(x))
        twin.solver = Serial()
        assert net.solver == MGRIT()

    def test_a_network_that_never_ran_is_copied_saved_and_dropped(self) -> None:
        net = network()
        copy.deepcopy(net).state_dict()
        gone = weakref.ref(net)
        del net
        gc.collect()
        assert gone() is None

    def test_to_sequential_is_independent(self) -> None:
        net = network(mlp, solver=Serial())
        x = inputs()
        sequential = net.to_sequential()
        assert len(sequential) == net.num_steps
        before = net(x)
        with torch.no_grad():
            for parameter in sequential.parameters():
                parameter.zero_()
        assert torch.equal(net(x), before)
        sequential(x).sum().backward()
        assert not gradients(net)
        assert {name: p.shape for name, p in net.layers.named_parameters()} == {
            name: (net.num_steps, *p.shape)
            for name, p in sequential[0].block.named_parameters()  # pyright: ignore
        }

    def test_to_sequential_keeps_frozen_parameters_frozen(self) -> None:
        net = network(mlp)
        net.layers.get_parameter("0.bias").requires_grad_(False)
        for step in net.to_sequential():
            assert [p.requires_grad for p in step.parameters()] == [True, False, True, True]

    @pytest.mark.parametrize("training", [True, False])
    def test_to_sequential_keeps_the_mode(self, training: bool) -> None:
        sequential = network(mlp).train(training).to_sequential()
        assert {module.training for module in sequential.modules()} == {training}

    def test_an_optimizer_trains_as_it_does_with_serial_propagation(self) -> None:
        x = inputs(20, WIDTH)
        target = torch.tanh(x.roll(1, 1))

        def losses(net: LayerParallel) -> list[float]:
            optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
            history = []
            for _ in range(40):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(net(x), target)
                loss.backward()
                optimizer.step()
                history.append(loss.item())
            return history

        net = network(num_steps=16, Tf=2.0, solver=MGRIT())
        serial = copy.deepcopy(net)
        serial.solver = Serial()
        came = losses(net)
        assert came[-1] < came[0] / 3
        assert came == pytest.approx(losses(serial), rel=0.1)


class TestRandomNumbers:
    @staticmethod
    def weights(num_steps: int, **options: Any) -> Tensor:
        return network(num_steps=num_steps, **options).layers.get_parameter("linear.weight").detach()

    def test_the_same_seed_gives_the_same_network(self, seed: int) -> None:
        torch.manual_seed(seed)
        one = self.weights(6)
        torch.manual_seed(seed)
        assert torch.equal(one, self.weights(6))

    def test_two_networks_in_a_row_differ_in_every_layer(self) -> None:
        one, other = self.weights(6), self.weights(6)
        assert all(not torch.equal(a, b) for a in one for b in other)

    def test_layers_differ(self) -> None:
        weights = self.weights(6)
        assert all(not torch.equal(weights[i], weights[j]) for i in range(6) for j in range(i))

    def test_a_layer_starts_alike_in_networks_of_any_depth(self, seed: int) -> None:
        torch.manual_seed(seed)
        short = self.weights(5)
        torch.manual_seed(seed)
        assert torch.equal(short, self.weights(9)[:5])

    @pytest.mark.parametrize("num_steps", [1, 9])
    def test_building_takes_one_draw_of_the_users_generator(self, seed: int, num_steps: int) -> None:
        torch.manual_seed(seed)
        torch.randint(2**62, ())
        expected = torch.rand(3)
        torch.manual_seed(seed)
        network(num_steps=num_steps)
        assert torch.equal(torch.rand(3), expected)

    def test_propagating_takes_none(self, seed: int) -> None:
        net, x = network(), inputs()
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.manual_seed(seed)
        net(x).sum().backward()
        assert torch.equal(torch.rand(3), expected)

    def test_initialisation_is_the_blocks_own(self) -> None:
        weights = self.weights(50)
        bound = 1 / WIDTH**0.5  # of torch.nn.Linear
        assert weights.abs().max() <= bound
        assert weights.std() == pytest.approx(bound / 3**0.5, rel=0.1)


class TestMemory:
    @staticmethod
    def live_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    @pytest.mark.parametrize("block", ["dense", "two linear layers"])
    @pytest.mark.parametrize("store", ["all", "c_points"])
    def test_repeated_steps_leave_nothing_behind(self, block: str, store: Any) -> None:
        net = network(BLOCKS[block][0], solver=MGRIT(store=store))
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            net(inputs()).square().sum().backward()
            optimizer.step()

        step()
        before = self.live_tensors()
        for _ in range(10):
            step()
        assert self.live_tensors() <= before


@pytest.mark.parametrize("solves", [1, 4])
def test_results_look_alike_on_every_network(solves: int) -> None:
    """One place to ask for them, whatever is solved: before any solve None, then the latest of each."""
    net = network() if solves == 1 else GRU(WIDTH, 3, 2, bidirectional=True, dtype=torch.float64)
    x = inputs() if solves == 1 else inputs(20, 2, WIDTH)
    assert net.results == ((None,) * solves, (None,) * solves)
    y = net(x)
    assert all(net.results.forward) and net.results.adjoint == (None,) * solves
    (y if solves == 1 else y[0]).sum().backward()
    both = (net.forward_result, net.adjoint_result) if solves == 1 else (net.forward_results[0], net.adjoint_results[0])  # pyright: ignore
    assert (net.results.forward[0], net.results.adjoint[0]) == both
    assert len(net.results.adjoint) == solves and all(net.results.adjoint)


def test_a_tolerance_does_not_depend_on_the_scale_of_the_loss() -> None:
    """The adjoint is linear; in fp32 the squares of a small one's residuals would vanish and pass for converged."""
    solver = MGRIT(adjoint_iterations=30, adjoint_tolerance=1e-5)
    net, x = LayerParallel(None, lambda: DenseBlock(8), 128, 2.0, solver=solver), torch.randn(4, 8)

    def gradient(scale: float) -> Tensor:
        net.zero_grad()
        (scale * net(x)).sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in net.parameters()]) / scale

    assert relative_error(gradient(1e-22), gradient(1.0)) < 1e-4
