"""Where a call is compiled, exported, traced or made in inference mode: it works, or says what to give instead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from lpgpu import GRU, LSTM, MGRIT, LayerParallel, Serial
from lpgpu.nn import ConvBlock, DenseBlock
from lpgpu.nn.plain_gru import PlainGRU
from tests.assertions import assert_close_relative
from tests.nn.networks import BLOCKS, WIDTH, inputs, network

STEPS, BATCH = 9, 2


class Model(nn.Module):
    """A network between a stem and a head."""

    def __init__(self, deep: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
        self.deep = deep
        self.head = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.deep(torch.tanh(self.stem(x)))
        if isinstance(y, tuple):
            y = y[0]
        return torch.relu(self.head(y))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: network(num_steps=9),
    "any block": lambda: network(BLOCKS["two linear layers"][0], 9),
    "gru": lambda: GRU(WIDTH, WIDTH, dtype=torch.float64),
}


def example(net: nn.Module) -> Tensor:
    return inputs(STEPS, BATCH, WIDTH) if isinstance(net, GRU) else inputs(BATCH, WIDTH)


def value_and_gradients(net: Callable[[Tensor], Tensor], of: nn.Module, x: Tensor) -> list[Tensor]:
    y = net(x)
    y = y[0] if isinstance(y, tuple) else y
    return [y, *torch.autograd.grad(y.square().sum(), list(of.parameters()))]


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh(self) -> None:
        torch._dynamo.reset()

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_of_a_model_breaks_its_graph_once_and_never_compiles_again(self, name: str, backend: str) -> None:
        """Stem and head are compiled; of a GRU no more than of torch's own, which the compiler leaves alone too."""
        model = Model(NETWORKS[name]())
        theirs = CompileCounterWithBackend(backend)
        torch.compile(Model(nn.GRU(WIDTH, WIDTH, dtype=torch.float64)), backend=theirs)(inputs(STEPS, BATCH, WIDTH))
        torch._dynamo.reset()
        counter = CompileCounterWithBackend(backend)
        compiled = torch.compile(model, backend=counter)
        for _ in range(3):
            x = example(model.deep)
            for came, expected in zip(
                value_and_gradients(compiled, model, x), value_and_gradients(model, model, x), strict=True
            ):
                assert_close_relative(came, expected)
        assert counter.frame_count == (theirs.frame_count if name == "gru" else 2)

    @pytest.mark.parametrize("in_place", [False, True], ids=["torch.compile", ".compile()"])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_of_the_network_alone_leaves_it_as_it_is(self, name: str, in_place: bool) -> None:
        net = NETWORKS[name]()
        x, counter = example(net), CompileCounterWithBackend("eager")
        expected = value_and_gradients(net, net, x)
        if in_place:
            net.compile(backend=counter)
        for came, other in zip(
            value_and_gradients(net if in_place else torch.compile(net, backend=counter), net, x), expected, strict=True
        ):
            assert torch.equal(came, other)
        assert counter.frame_count == 0


class TestExport:
    @pytest.mark.parametrize("name", NETWORKS)
    @pytest.mark.parametrize("strict", [False, True])
    def test_names_the_plain_network(self, name: str, strict: bool) -> None:
        net = NETWORKS[name]()
        with pytest.raises((NotImplementedError, RuntimeError), match=r"to_sequential\(\)"):
            torch.export.export(net, (example(net),), strict=strict)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("name", NETWORKS)
    def test_a_trace_would_freeze_the_solve(self, name: str) -> None:
        net = NETWORKS[name]()
        with pytest.raises(NotImplementedError, match=r"torch\.jit\.trace cannot record.*\.to_sequential\(\)"):
            torch.jit.trace(net, (example(net),))

    @pytest.mark.parametrize("block", ["dense", "two linear layers", "step with gate and buffer"])
    def test_of_the_sequential_network(self, block: str) -> None:
        build, form, shape = BLOCKS[block]
        plain, x = network(build, 5, form=form).to_sequential(), inputs(*shape)
        assert_close_relative(torch.export.export(plain, (x,)).module()(x), plain(x))

    @pytest.mark.parametrize("formulation", ["implicit", "classic"])
    def test_of_a_plain_gru(self, formulation: Any) -> None:
        plain = GRU(WIDTH, 3, 2, bidirectional=True, formulation=formulation, dtype=torch.float64).to_torch()
        x = inputs(STEPS, BATCH, WIDTH)
        exported = torch.export.export(plain, (x,)).module()
        for came, expected in zip(exported(x), plain(x), strict=True):
            assert_close_relative(came, expected)


class TestPlainGRU:
    @pytest.mark.parametrize("formulation", ["implicit", "classic"])
    @pytest.mark.parametrize("dt", [1.0, 0.6])
    @pytest.mark.parametrize(
        "options",
        [{}, {"num_layers": 3, "bidirectional": True}, {"batch_first": True, "bias": False}],
        ids=["one", "deep", "batch first"],
    )
    def test_computes_what_the_exact_gru_does(self, formulation: Any, dt: float, options: dict[str, Any]) -> None:
        gru = GRU(3, 4, **options, formulation=formulation, dt=dt, solver=Serial(), dtype=torch.float64)
        plain = gru.to_torch()
        assert type(plain) is (nn.GRU if (formulation, dt) == ("classic", 1.0) else PlainGRU)
        assert plain.state_dict().keys() == gru.state_dict().keys()
        hx = inputs(len(gru.forward_results), 5, 4)
        for arguments in ((inputs(5, 5, 3), hx), (inputs(5, 5, 3),), (inputs(7, 3), hx[:, 0]), (inputs(7, 3),)):
            for came, expected in zip(plain(*arguments), gru(*arguments), strict=True):
                assert_close_relative(came, expected)

    def test_takes_padded_sequences(self) -> None:
        gru = GRU(3, 4, 2, bidirectional=True, formulation="implicit", solver=Serial(), dtype=torch.float64)
        x, lengths = inputs(6, 3, 3), torch.tensor([2, 6, 3])
        for came, expected in zip(gru.to_torch()(x, None, lengths), gru(x, lengths=lengths), strict=True):
            assert_close_relative(came, expected)

    @pytest.mark.parametrize("formulation", ["implicit", "classic"])
    def test_is_independent_and_in_the_same_mode(self, formulation: Any) -> None:
        gru = GRU(3, 4, 2, dropout=0.5, formulation=formulation)
        gru.weight_hh_l0.requires_grad_(False)
        plain = gru.eval().to_torch()
        assert not plain.training and plain.dropout == 0.5
        assert not plain.weight_hh_l0.requires_grad and plain.weight_hh_l1.requires_grad  # pyright: ignore
        with torch.no_grad():
            plain.weight_hh_l1.zero_()  # pyright: ignore
        assert gru.weight_hh_l1.any()

    @pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 3}], ids=str)
    def test_an_lstm_becomes_torchs(self, options: dict[str, Any]) -> None:
        lstm, x = LSTM(3, 4, **options, solver=Serial(), dtype=torch.float64), inputs(5, 2, 3)
        plain = lstm.to_torch()
        assert type(plain) is nn.LSTM
        assert_close_relative(plain(x)[0], lstm(x)[0])

    def test_draws_nothing(self) -> None:
        gru = GRU(3, 4, formulation="classic")
        state = torch.get_rng_state()
        gru.to_torch()
        assert torch.equal(torch.get_rng_state(), state)


INFERENCE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        name: (lambda name=name: network(BLOCKS[name][0], 12, form=BLOCKS[name][1]), BLOCKS[name][2]) for name in BLOCKS
    },
    "convolution": (lambda: network(lambda: ConvBlock(2), 12), (2, 2, 3, 3)),
    "gru": (lambda: GRU(3, 4, 2, bidirectional=True, dtype=torch.float64), (12, 2, 3)),
}


class TestInferenceMode:
    @pytest.mark.parametrize("name", INFERENCE)
    @pytest.mark.parametrize(
        "solver", [Serial(), MGRIT(), MGRIT(store="c_points")], ids=["Serial", "MGRIT", "C-points"]
    )
    def test_computes_what_no_grad_does(self, name: str, solver: Any) -> None:
        build, shape = INFERENCE[name]
        net, x = build(), inputs(*shape)
        net.solver = solver
        with torch.no_grad():
            expected = net(x)
        with torch.inference_mode():
            came, of_inference_tensor = net(x), net(x.clone())
        for each in (came, of_inference_tensor):
            for one, other in zip(*((y if isinstance(y, tuple) else (y,)) for y in (each, expected)), strict=True):
                assert torch.equal(one, other) and not one.requires_grad

    def test_of_a_network_built_in_it(self) -> None:
        build, form, shape = BLOCKS["step with gate and buffer"]
        with torch.inference_mode():
            net = network(build, 12, form=form)
            assert net(inputs(*shape)).isfinite().all()
        with torch.no_grad():
            assert net(inputs(*shape)).isfinite().all()

    def test_a_block_that_works_in_place_is_refused_there_too(self) -> None:
        net = network(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH)), 16)
        with torch.inference_mode(), pytest.raises(RuntimeError, match="the block changes its input in place"):
            net(inputs())

    def test_what_was_computed_in_it_may_be_the_input_of_training(self) -> None:
        with torch.inference_mode():
            x = inputs()
        for net in (
            LayerParallel(None, lambda: DenseBlock(WIDTH), 9, 1.0, solver=s).double() for s in (Serial(), MGRIT())
        ):
            net(x).sum().backward()
            assert all(p.grad is not None for p in net.parameters())
