"""What people put into a block or around a network: attention in eval, loss scaling, checkpoints, sharded weights."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from lpgpu import GRU, MGRIT, DivergenceError, DivergenceWarning, LayerParallel, Serial
from lpgpu.nn import DenseBlock
from tests.assertions import assert_close_relative, assert_equals_serial
from tests.nn.networks import WIDTH, exactly, inputs, network


class SelfAttention(nn.Module):
    """Of batches of tokens, [B, tokens, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, u: Tensor) -> Tensor:
        return self.attention(u, u, u, need_weights=False)[0]


ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "attention": SelfAttention,
    "encoder layer": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 6, dropout=0.0, batch_first=True),
}


class TestAttention:
    @pytest.mark.parametrize("kind", ATTENTION)
    @pytest.mark.parametrize("training", [True, False])
    def test_has_gradients_in_eval_too(self, kind: str, training: bool) -> None:
        """PyTorch's fused operations for inference have no derivative, and cannot be batched."""
        assert torch.backends.mha.get_fastpath_enabled()
        net = network(ATTENTION[kind], 9, Tf=0.1, solver=exactly(9)).train(training)
        assert_equals_serial(net, inputs(2, 3, WIDTH), tolerance=1e-10)
        with torch.no_grad():
            x = inputs(2, 3, WIDTH)
            assert_close_relative(net(x), net.to_sequential()(x), tolerance=1e-10)
        assert torch.backends.mha.get_fastpath_enabled(), "and elsewhere they stay on"


SCALED: dict[str, tuple[Callable[[Any], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda solver: LayerParallel(None, lambda: DenseBlock(WIDTH), 18, 1.0, solver=solver), (3, WIDTH)),
    "gru": (lambda solver: GRU(WIDTH, WIDTH, solver=solver), (18, 3, WIDTH)),
}


class TestLossScaling:
    @pytest.mark.filterwarnings("ignore::lpgpu.DivergenceWarning")
    @pytest.mark.parametrize("kind", SCALED)
    @pytest.mark.parametrize(
        "solver", [MGRIT(on_divergence="raise"), MGRIT(), Serial()], ids=["raise", "warn", "Serial"]
    )
    def test_an_overflow_skips_the_step(self, kind: str, solver: Any) -> None:
        build, shape = SCALED[kind]
        net, x = build(solver), torch.randn(*shape)
        before = copy.deepcopy(net.state_dict())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)

        def step() -> None:
            optimizer.zero_grad()
            y = net(x)
            scaler.scale(100 * (y[0] if isinstance(y, tuple) else y).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()

        step()
        assert scaler.get_scale() == 2.0**126
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        scaler.update(1024.0)
        step()
        assert not all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    @pytest.mark.parametrize("kind", SCALED)
    def test_is_told_from_divergence(self, kind: str) -> None:
        build, shape = SCALED[kind]
        net = build(MGRIT(on_divergence="raise"))
        y = net(torch.randn(*shape))
        y = y[0] if isinstance(y, tuple) else y
        with pytest.warns(DivergenceWarning, match="was given gradients that are not finite.*GradScaler skips"):
            y[1].sum().mul(torch.inf).backward()

    def test_an_adjoint_that_diverges_by_itself_still_raises(self) -> None:
        class Decay(nn.Module):
            """Stable in fine steps (2·0.9 = 1.8), unstable in coarse ones; exact forward from zero."""

            def forward(self, u: Tensor) -> Tensor:
                return -u

        options: dict[str, Any] = {"levels": 2, "coarsening": 8, "relaxation": "F"}
        solver = MGRIT(**options, iterations=1, adjoint_iterations=4, on_divergence="raise")
        net = LayerParallel(None, Decay, 64, 64 * 1.8, solver=solver).double()
        y = net(torch.zeros(2, WIDTH, dtype=torch.float64, requires_grad=True))
        with pytest.raises(DivergenceError, match="adjoint solve diverges"):
            y.sum().backward()


class Checkpointed(nn.Module):
    """tanh(W u), to be computed again in backward."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.use_reentrant = use_reentrant

    def forward(self, u: Tensor) -> Tensor:
        return checkpoint(lambda u: torch.tanh(self.linear(u)), u, use_reentrant=self.use_reentrant)  # pyright: ignore


class TestRefusals:
    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_checkpoints_inside_a_block(self, use_reentrant: bool) -> None:
        net = network(lambda: Checkpointed(use_reentrant))
        with pytest.raises(RuntimeError, match=r'the block uses torch\.utils\.checkpoint.*store="c_points"'):
            net(inputs()).sum().backward()

    def test_checkpoints_around_a_network_are_welcome(self) -> None:
        net, x = network(), inputs(requires_grad=True)
        expected = torch.autograd.grad(net(x).sum(), (x, *net.parameters()))
        came = torch.autograd.grad(checkpoint(net, x, use_reentrant=False).sum(), (x, *net.parameters()))  # pyright: ignore
        for one, other in zip(came, expected, strict=True):
            assert torch.equal(one, other)

    def test_spectral_norm_that_iterates_says_how_to_freeze_it(self) -> None:
        net = network(lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)), solver=exactly())
        with pytest.raises(RuntimeError, match=r"freeze .*\(spectral_norm\) by \.eval\(\)"):
            net(inputs())
        assert_equals_serial(net.eval(), inputs())

    @pytest.mark.parametrize(
        ("form", "forward", "called"),
        [
            ("rhs", lambda self, dt, u: u, r"forward is \(dt, u\).*form='rhs' it is called as block\(u\)"),
            ("rhs", lambda self, time, u: u, r"a first argument called t gets the time"),
            ("step", lambda self, u: u, r"form='step' it is called as block\(dt, u\)"),
            ("residual", lambda self, u, mask: u, r"called as block\(u\): missing a required argument: 'mask'"),
        ],
    )
    def test_a_forward_of_other_arguments(self, form: Any, forward: Any, called: str) -> None:
        net = network(type("Block", (nn.Module,), {"forward": forward}), form=form)
        with pytest.raises(TypeError, match=called):
            net(inputs())
        assert net.forward_result is None


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    """Of one process."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


class TestFullyShard:
    def test_of_the_layers_alone_is_refused_with_the_cure(self, mesh: Any) -> None:
        net = network()
        fully_shard(net.layers, mesh=mesh)
        with pytest.raises(
            ValueError, match=r"sharded \(DTensor\).*fully_shard on the LayerParallel.*or on a module around it"
        ):
            net(inputs())

    @pytest.mark.parametrize("inner", [False, True])
    def test_of_network_or_model_trains(self, mesh: Any, inner: bool) -> None:
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH, dtype=torch.float64), network())
        plain, x = copy.deepcopy(model), inputs()
        if inner:
            fully_shard(model[1], mesh=mesh)
        fully_shard(model, mesh=mesh)
        model(x).square().sum().backward()
        plain(x).square().sum().backward()
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            assert_close_relative(one.grad.full_tensor(), other.grad)  # pyright: ignore
