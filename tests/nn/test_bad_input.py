"""What makes no network or no call is refused before any work, saying what came, what was expected and the cure."""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lpgpu import MGRIT, DivergenceError, DivergenceWarning, LayerParallel, Serial
from lpgpu.nn import Activate, ConvBlock, DenseBlock
from tests.assertions import assert_equals_serial, assert_mentions
from tests.nn.networks import WIDTH, exactly, inputs, mlp, network


def dense() -> nn.Module:
    return DenseBlock(WIDTH)


ARGUMENTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no steps": ({"local_num_steps": 0}, ["local_num_steps is 0", "at least 1"]),
    "negative steps": ({"local_num_steps": -4}, ["local_num_steps is -4", "at least 1"]),
    "fractional steps": ({"local_num_steps": 4.0}, ["local_num_steps is 4.0", "integer"]),
    "steps in words": ({"local_num_steps": "4"}, ["local_num_steps is '4'", "integer"]),
    "steps of True": ({"local_num_steps": True}, ["local_num_steps is True", "integer"]),
    "Tf zero": ({"Tf": 0.0}, ["Tf is 0.0", "> 0"]),
    "Tf negative": ({"Tf": -1.0}, ["Tf is -1.0", "> 0"]),
    "Tf infinite": ({"Tf": math.inf}, ["Tf is inf", "finite"]),
    "Tf undefined": ({"Tf": math.nan}, ["Tf is nan", "finite"]),
    "Tf in words": ({"Tf": "1"}, ["Tf is '1'", "number"]),
    "Tf of None": ({"Tf": None}, ["Tf is None", "number"]),
    "unknown scheme": ({"scheme": "heun"}, ["scheme is 'heun'", "'euler', 'midpoint', 'rk4'"]),
    "unknown form": ({"form": "ode"}, ["form is 'ode'", '"rhs"', '"step"', '"residual"']),
    "solver in words": ({"solver": "mgrit"}, ["solver is 'mgrit'", "MGRIT(...)", "Serial()"]),
    "solver as a class": ({"solver": Serial}, ["solver is", "Serial()"]),
    "comm of some other kind": ({"comm": "world"}, ["comm is str", "None", "mpi4py"]),
}


class TestArguments:
    @pytest.mark.parametrize("case", ARGUMENTS)
    def test_are_refused(self, case: str) -> None:
        wrong, words = ARGUMENTS[case]
        arguments: dict[str, Any] = {"comm": None, "block": dense, "local_num_steps": 4, "Tf": 1.0} | wrong
        with pytest.raises((ValueError, TypeError)) as caught:
            LayerParallel(**arguments)
        assert_mentions(caught.value, words)

    def test_a_solver_is_refused_at_its_assignment(self) -> None:
        net = network()
        with pytest.raises(TypeError, match="solver is None"):
            net.solver = None  # pyright: ignore
        assert net.solver == MGRIT()

    def test_bad_arguments_build_no_block(self) -> None:
        built: list[nn.Module] = []

        def block() -> nn.Module:
            built.append(dense())
            return built[-1]

        with pytest.raises(ValueError):
            LayerParallel(None, block, 4, -1.0)
        assert not built


class Communicator:
    """As much of an mpi4py communicator as is looked at."""

    def __init__(self, size: int) -> None:
        self.size = size

    def Get_size(self) -> int:  # mpi4py's own name
        return self.size

    def Get_rank(self) -> int:
        return 0


class TestCommunicator:
    def test_one_rank_is_welcome(self) -> None:
        net = LayerParallel(Communicator(1), lambda: DenseBlock(WIDTH, dtype=torch.float64), 9, 1.0, solver=exactly())
        assert_equals_serial(net, inputs())


class TestBlocks:
    def test_a_module_is_no_builder(self) -> None:
        with pytest.raises(TypeError, match="block is DenseBlock; expected a callable without arguments"):
            LayerParallel(None, dense(), 4, 1.0)  # pyright: ignore

    def test_it_takes_no_arguments(self) -> None:
        """LayerParallel(None, ConvBlock, …): the class itself, which wants to know its channels."""
        with pytest.raises(TypeError, match=r"without channels; pass .*: `lambda: ConvBlock\(channels=\.\.\.\)`"):
            LayerParallel(None, ConvBlock, 4, 1.0)  # pyright: ignore

    @pytest.mark.parametrize("block", [None, 7, "dense"])
    def test_it_is_called(self, block: Any) -> None:
        with pytest.raises(TypeError, match=f"block is {type(block).__name__}; expected a callable"):
            LayerParallel(None, block, 4, 1.0)

    def test_it_builds_modules(self) -> None:
        with pytest.raises(TypeError, match=r"block\(\) returned function; expected an nn.Module"):
            LayerParallel(None, lambda: lambda u: -u, 4, 1.0)  # pyright: ignore

    def test_it_builds_a_new_module_each_time(self) -> None:
        module = dense()
        with pytest.raises(ValueError, match="same module twice"):
            LayerParallel(None, lambda: module, 4, 1.0)

    @pytest.mark.parametrize("listed", [False, True])
    def test_what_the_caller_keeps_of_it_stays_as_it_is(self, listed: bool) -> None:
        """Also where a block has its parts in a list of its own."""
        blocks = [mlp() for _ in range(8)]
        for block in blocks if listed else ():
            block.parts = list(block)  # pyright: ignore
        before = [parameter.clone() for parameter in blocks[0].parameters()]
        net = LayerParallel(None, iter(blocks).__next__, 8, 1.0, solver=exactly())
        assert [parameter.shape for parameter in blocks[0].parameters()] == [each.shape for each in before]
        net(inputs(dtype=torch.float32)).sum().backward()
        with torch.no_grad():
            next(net.parameters()).zero_()
        net.layers.register_forward_hook(lambda *_: None)
        assert all(map(torch.equal, blocks[0].parameters(), before))
        assert next(blocks[0].parameters()).grad is None and not blocks[0]._forward_hooks

    def test_it_builds_modules_of_one_shape(self) -> None:
        widths = itertools.count(3)
        with pytest.raises(ValueError, match="layer 1 unlike layer 0") as caught:
            LayerParallel(None, lambda: DenseBlock(next(widths)), 4, 1.0)
        assert_mentions(caught.value, ["layer 0 has linear.weight: (3, 3)", "it has linear.weight: (4, 4)", "alike"])

    def test_of_large_ones_only_the_difference_is_said(self) -> None:
        scales = itertools.count()

        def block() -> nn.Module:
            module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(50)))
            module[17].scale = next(scales)
            return module

        with pytest.raises(ValueError) as caught:
            LayerParallel(None, block, 4, 1.0)
        assert_mentions(caught.value, ["layer 0 has 17.scale = 0", "it has 17.scale = 1", "a parameter or a buffer"])
        assert len(str(caught.value)) < 500

    def test_it_builds_modules_of_one_kind(self) -> None:
        """The same parameters, but another function: only one of them could be propagated."""
        activations = itertools.cycle([nn.Tanh, nn.ReLU])
        with pytest.raises(ValueError, match="layer 1 unlike layer 0"):
            LayerParallel(None, lambda: nn.Sequential(nn.Linear(3, 3), next(activations)()), 4, 1.0)

    def test_tied_parameters_stay_tied_or_are_refused(self) -> None:
        """Stacked one by one they would part at the first optimizer step, and train another network."""

        def block() -> nn.Module:
            one, other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            other.weight = one.weight
            return nn.Sequential(one, nn.Tanh(), other)

        try:
            net = network(block, 5)
        except ValueError as error:
            assert_mentions(error, ["0.weight", "2.weight"])
        else:
            assert len(list(net.parameters())) == 3
            net.solver = exactly()
            assert_equals_serial(net, inputs())

    def test_parameters_shared_by_layers_are_refused(self) -> None:
        """A network that shares weights over depth would silently get a copy for each layer."""
        shared = nn.Linear(WIDTH, WIDTH)
        with pytest.raises(ValueError, match="shar"):
            LayerParallel(None, lambda: nn.Sequential(shared, nn.Tanh()), 4, 1.0)

    def test_its_own_error_arrives_as_it_is(self) -> None:
        def block() -> nn.Module:
            raise KeyError("weights.pt")

        with pytest.raises(KeyError, match=r"weights\.pt"):
            LayerParallel(None, block, 4, 1.0)

    def test_synchronised_running_statistics_are_refused_with_the_cure(self) -> None:
        with pytest.raises(ValueError) as caught:
            LayerParallel(None, lambda: nn.Sequential(nn.Linear(3, 3), nn.SyncBatchNorm(3)), 4, 1.0)
        assert_mentions(caught.value, ["BatchNorm", "running statistics", "GroupNorm", "LayerNorm", ".eval() of it"])

    def test_frozen_running_statistics_are_buffers_like_any_other(self) -> None:
        def block() -> nn.Module:
            norm = nn.BatchNorm1d(WIDTH)
            norm.running_mean.normal_()  # pyright: ignore
            norm.running_var.uniform_(0.5, 2)  # pyright: ignore
            return nn.Sequential(nn.Linear(WIDTH, WIDTH), norm.eval(), nn.Tanh())

        net = network(block, solver=exactly())
        assert_equals_serial(net, inputs(5, WIDTH))

    def test_batch_norm_without_running_statistics_is_a_function_like_any_other(self) -> None:
        def block() -> nn.Module:
            norm = nn.BatchNorm1d(WIDTH, track_running_stats=False)
            return nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), norm, nn.Tanh())

        assert_equals_serial(network(block, solver=exactly()), inputs(5, WIDTH), tolerance=1e-10)

    @pytest.mark.parametrize("build", [Activate, lambda name: DenseBlock(3, name), lambda name: ConvBlock(3, 1, name)])
    def test_unknown_activations_name_the_known_ones(self, build: Callable[[str], nn.Module]) -> None:
        with pytest.raises(ValueError, match=r"activation is 'gelu'; expected one of .*smooth_relu, tanh"):
            build("gelu")

    @pytest.mark.parametrize("size", [0, -1, 2.0, True])
    def test_widths_and_channels_are_positive_integers(self, size: Any) -> None:
        with pytest.raises(ValueError, match=f"width is {size}; expected an integer ≥ 1"):
            DenseBlock(size)
        with pytest.raises(ValueError, match=f"channels is {size}; expected an integer ≥ 1"):
            ConvBlock(size)

    def test_one_or_two_convolutions(self) -> None:
        with pytest.raises(ValueError, match="convolutions is 3; expected 1 or 2"):
            ConvBlock(2, 3)


INPUTS: dict[str, tuple[Any, list[str]]] = {
    "a list": ([[0.0] * WIDTH], ["x holds float", "tensors [batch, ...]"]),
    "nothing": (None, ["x holds NoneType", "tensors [batch, ...]"]),
    "a number": (torch.tensor(1.0), ["x has no dimensions", "[batch, ...]"]),
    "integers": (torch.ones(2, WIDTH, dtype=torch.int64), ["x is torch.int64", "floating point"]),
    "complex numbers": (torch.ones(2, WIDTH, dtype=torch.complex64), ["x is torch.complex64", "floating point"]),
    "another dtype": (torch.ones(2, WIDTH), ["torch.float32", "torch.float64", ".to("]),
    "without values": (torch.ones(2, WIDTH, dtype=torch.float64, device="meta"), ["x is on meta", "no values"]),
    "sparse": (torch.eye(WIDTH, dtype=torch.float64).to_sparse(), ["x is torch.sparse_coo", ".to_dense()"]),
    "nested": (
        torch.nested.nested_tensor([torch.ones(2, WIDTH), torch.ones(3, WIDTH)]),
        ["x is nested", ".to_padded_tensor("],
    ),
    "undefined": (torch.tensor([[1.0, 2.0, 3.0, math.nan]], dtype=torch.float64), ["NaN or infinite", "finite"]),
    "infinite": (torch.tensor([[1.0, 2.0, 3.0, -math.inf]], dtype=torch.float64), ["NaN or infinite", "finite"]),
}


SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense, wider": (dense, (3, WIDTH + 1)),
    "dense, width one": (dense, (3, 1)),
    "dense, three dimensions": (dense, (3, 2, WIDTH + 1)),
    "convolution, more channels": (lambda: ConvBlock(2), (3, 5, 4, 4)),
    "convolution, no image": (lambda: ConvBlock(2), (3, 2)),
}


class TestInputs:
    @pytest.mark.parametrize("case", INPUTS)
    def test_are_refused_before_any_work(self, case: str) -> None:
        x, words = INPUTS[case]
        net = network()
        with pytest.raises((ValueError, TypeError)) as caught:
            net(x)
        assert_mentions(caught.value, words)
        assert net.forward_result is None

    @pytest.mark.parametrize("x", [inputs(), inputs().to("meta")], ids=["cpu", "meta"])
    def test_a_network_without_values(self, x: Tensor) -> None:
        net = network().to("meta")
        with pytest.raises(ValueError, match=r"network is on meta, where tensors have no values.*to_empty\(device="):
            net(x)
        net = net.to_empty(device="cpu")
        net.load_state_dict(network().state_dict())
        assert net(inputs()).isfinite().all()

    @pytest.mark.parametrize(
        "transformed",
        [
            lambda net, x: torch.vmap(net)(x),
            lambda net, x: torch.func.grad(lambda x: net(x).sum())(x[0]),
            lambda net, x: torch.vmap(lambda theta: torch.func.functional_call(net, theta, (x[0],)))(
                {name: torch.stack([value, value]) for name, value in net.named_parameters()}
            ),
        ],
        ids=["vmap", "grad", "vmap over networks"],
    )
    def test_transforms_of_torch_func(self, transformed: Callable[[LayerParallel, Tensor], Tensor]) -> None:
        net = network()
        with pytest.raises(NotImplementedError, match=r"inside a transform of torch\.func .*batch of x.*backward"):
            transformed(net, inputs(2, 3, WIDTH))
        assert net.forward_result is None

    @pytest.mark.parametrize("case", SHAPES)
    def test_shapes_that_the_known_blocks_cannot_take(self, case: str) -> None:
        block, shape = SHAPES[case]
        net = network(block)
        with pytest.raises(ValueError, match=re.escape(str(shape))):
            net(inputs(*shape))

    def test_a_diagonal_that_the_layers_do_not_offer(self) -> None:
        with pytest.raises(ValueError, match=r'delta is "diagonal".*"auto".*"none"'):
            network(mlp, solver=MGRIT(delta="diagonal"))(inputs())

    def test_shapes_that_any_other_block_cannot_take_are_its_own_error(self) -> None:
        with pytest.raises(RuntimeError) as caught:
            network(mlp)(inputs(3, WIDTH + 1))
        assert_mentions("\n".join(caught.value.__notes__), ["level", "layers"])


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "pruning": lambda module: prune.l1_unstructured(module, "weight", 0.5),
}


class TestParametrizedWeights:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("block", [dense, mlp], ids=["dense", "any"])
    def test_of_all_layers_at_once_are_refused(self, block: Callable[[], nn.Module], way: str) -> None:
        """weight_norm would give other weights than before: it would norm the layers together."""
        net = network(block)
        WAYS[way](next(part for part in net.layers.modules() if isinstance(part, nn.Linear)))
        with pytest.raises(ValueError, match=r"block\(\) did not build: .*weight.* do so inside block\(\)"):
            net(inputs())
        assert net.forward_result is None

    @pytest.mark.filterwarnings("ignore:There is a performance drop")
    @pytest.mark.parametrize("kind", ["dense", "any", "convolution"])
    def test_of_each_layer_are_welcome(self, kind: str) -> None:
        """A block with a kernel of its own then takes the general path."""

        def block() -> nn.Module:
            module = {"dense": dense, "any": mlp, "convolution": lambda: ConvBlock(2)}[kind]()
            part = next(part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d))
            parametrizations.weight_norm(part)
            return module

        assert_equals_serial(network(block, solver=exactly()), inputs(*((3, 2, 4, 4) if kind == "convolution" else ())))


class Returns(nn.Module):
    """form="step": returns what it is told to make of u."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, *arguments: Any) -> Any:
        return self.make(arguments[-1])


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "another shape": (lambda u: u[..., :-1], [f"shape from (3, {WIDTH}) to (3, {WIDTH - 1})", "keep"]),
    "one dimension more": (lambda u: u.unsqueeze(0), [f"shape from (3, {WIDTH}) to (1, 3, {WIDTH})"]),
    "another dtype": (lambda u: u.float(), ["dtype from torch.float64 to torch.float32", "keep"]),
    "another device": (lambda u: u.to("meta"), ["device from cpu to meta", "keep"]),
    "nothing": (lambda u: None, ["NoneType"]),
    "a list": (lambda u: [u], ["list"]),
    "a number": (lambda u: 1.0, ["float"]),
}


class TestOutputs:
    @pytest.mark.parametrize("case", OUTPUTS)
    def test_a_step_that_returns_no_next_state(self, case: str) -> None:
        make, words = OUTPUTS[case]
        with pytest.raises((ValueError, TypeError)) as caught:
            network(lambda: Returns(make), form="step")(inputs())
        assert_mentions(caught.value, words)

    def test_a_pair_is_no_state(self) -> None:
        with pytest.raises((ValueError, TypeError), match="tuple"):
            network(lambda: Returns(lambda u: (u, u)), form="step")(inputs())

    @pytest.mark.parametrize(
        "make",
        [
            lambda u: u.unsqueeze(0).expand(2, 3, WIDTH),
            lambda u: u.to(torch.complex128),
            lambda u: u[..., :-1],
            lambda u: u.to("meta"),
            lambda u: None,
        ],
        ids=["broadcast", "complex", "shape", "device", "nothing"],
    )
    def test_a_right_hand_side_that_is_no_change_of_state(self, make: Callable[[Tensor], Any]) -> None:
        """Where torch itself refuses to add it to u, torch's error is the message."""
        with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
            network(lambda: Returns(make))(inputs())
        assert str(caught.value)


class Fails(nn.Module):
    """Raises what it is given once a flag is set, in the forward or only in the linearised pass."""

    def __init__(self, error: Exception, *, when: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.error = error
        self.when = when

    def forward(self, u: Tensor) -> Tensor:
        if self.when():
            raise self.error
        return self.linear(u).tanh()


class OwnError(Exception):
    """An exception that takes two arguments, so that it could not be built again from a message."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class TestErrorsInABlock:
    @pytest.mark.parametrize(
        "error", [OwnError(7, "of the user"), ZeroDivisionError("division by zero"), RuntimeError("out of cheese")]
    )
    def test_arrive_as_they_are_with_a_note(self, error: Exception) -> None:
        with pytest.raises(type(error)) as caught:
            network(lambda: Fails(error))(inputs())
        assert caught.value is error
        assert len(error.__notes__) == 1
        assert re.search(r"level \d+, layers \d+ to \d+ of the network", error.__notes__[0])

    def test_the_note_names_level_and_layers(self) -> None:
        """The coarse guess starts on level 2 of 36 layers: every 16th, the layers 0 and 16."""
        error = OwnError(1, "first")
        with pytest.raises(OwnError):
            network(lambda: Fails(error), 36, solver=MGRIT(levels=3, coarsening=4))(inputs())
        assert_mentions(error.__notes__[0], ["level 2", "layers 0 to 16 "])

    def test_backward_too(self) -> None:
        failing: list[bool] = []
        error = OwnError(2, "in backward")
        y = network(lambda: Fails(error, when=lambda: bool(failing)))(inputs())
        failing.append(True)
        with pytest.raises(OwnError) as caught:
            y.sum().backward()
        assert caught.value is error
        assert_mentions(error.__notes__[0], ["level", "layers"])

    @pytest.mark.parametrize("store", ["all", "c_points"])
    def test_backward_without_iterations_too(self, store: Any) -> None:
        failing: list[bool] = []
        error = OwnError(3, "in backward")
        solver = MGRIT(iterations=0, adjoint_iterations=0, initial_guess="constant", store=store)
        y = network(lambda: Fails(error, when=lambda: bool(failing)), solver=solver)(inputs())
        failing.append(True)
        with pytest.raises(OwnError):
            y.sum().backward()
        assert_mentions(error.__notes__[0], ["level 0", "layers"])

    def test_the_network_works_again_afterwards(self) -> None:
        failing = [True]
        net = network(lambda: Fails(OwnError(4, "once"), when=lambda: bool(failing)), solver=exactly())
        with pytest.raises(OwnError):
            net(inputs())
        failing.clear()
        assert net(inputs()).isfinite().all()


class Branches(nn.Module):
    """f(u) with a branch on the data."""

    def forward(self, u: Tensor) -> Tensor:
        return u if u.sum() > 0 else -u


class Reads(nn.Module):
    """f(u) with a Python number from the data."""

    def forward(self, u: Tensor) -> Tensor:
        return u * u.abs().max().item()


class Counts(nn.Module):
    """f(u) with a buffer that changes at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, u: Tensor) -> Tensor:
        self.calls += 1  # pyright: ignore
        return u.tanh()


CURES: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "data-dependent branch": (Branches, ["torch.where"]),
    "item": (Reads, [".item()"]),
}


class TestWhatVmapRefuses:
    @pytest.mark.parametrize("case", CURES)
    def test_comes_with_the_cure(self, case: str) -> None:
        block, words = CURES[case]
        with pytest.raises(RuntimeError) as caught:
            network(block)(inputs())
        assert_mentions(caught.value, ["pure function of its input", *words])
        assert_mentions(caught.value.__notes__[0], ["level", "layers"])
        assert caught.value.__cause__ is not None

    def test_buffers_that_change_are_refused(self) -> None:
        with pytest.raises(RuntimeError, match=r"changes its buffers \['calls'\]"):
            network(Counts)(inputs())


def test_diverging_solves_warn_by_default_and_raise_where_asked_to() -> None:
    """A stiff linear decay: stable in fine steps (2·0.9 = 1.8), unstable in coarse ones."""

    class Decay(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return -u

    options: dict[str, Any] = {"levels": 2, "coarsening": 8, "relaxation": "F", "iterations": 4}
    net = network(Decay, 64, Tf=64 * 1.8, solver=MGRIT(**options))
    with pytest.warns(DivergenceWarning, match="residual norms before each cycle"):
        net(inputs())
    net.solver = MGRIT(**options, on_divergence="raise")
    with pytest.raises(DivergenceError, match="forward solve diverges"):
        net(inputs())


def test_a_non_finite_gradient_is_reported() -> None:
    y = network()(inputs())
    with pytest.warns(DivergenceWarning, match="the adjoint solve has non-finite states"):
        y.backward(torch.full_like(y, math.nan))


class Wrong(nn.Module):
    """A right-hand side that returns something else than a state."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, u: Tensor) -> Any:
        return self.make(u)


@pytest.mark.parametrize("make", [lambda u: u[..., :1], lambda u: u.sum()], ids=["broadcast", "scalar"])
def test_a_right_hand_side_that_would_broadcast_is_refused(make: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ValueError, match="shape"):
        LayerParallel(None, lambda: Wrong(make), 8, 1.0)(torch.randn(2, 3))


def test_a_right_hand_side_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="NoneType; expected a tensor"):
        LayerParallel(None, lambda: Wrong(lambda u: None), 8, 1.0)(torch.randn(2, 3))


def test_values_of_a_layer_that_are_no_tensors_must_agree() -> None:
    """They cannot be stacked; layer 0's would silently serve all."""
    scales = iter(range(8))

    def block() -> nn.Module:
        module = nn.Linear(3, 3)
        module.scale = next(scales)
        return module

    with pytest.raises(ValueError, match="layer 1 unlike layer 0"):
        LayerParallel(None, block, 8, 1.0)


@pytest.mark.parametrize("solver", [Serial(), MGRIT(coarsening=4)], ids=["serial", "MGRIT"])
def test_a_block_that_works_in_place_is_refused(solver: Any) -> None:
    net = network(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH)), 16, solver=solver)
    with pytest.raises(RuntimeError, match="the block changes its input in place"):
        net(inputs())


def test_a_solve_that_hardly_converges_says_so() -> None:
    net = LayerParallel(None, lambda: DenseBlock(WIDTH), 64, 300.0, solver=MGRIT(coarsening=4)).double()
    with pytest.warns(DivergenceWarning, match="the forward solve (hardly converges|diverges)"):
        net(inputs())
