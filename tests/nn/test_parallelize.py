"""Existing models made layer-parallel, and back."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel, Serial, parallelize, unparallelize
from lpgpu.nn import PerLayer
from tests.assertions import assert_close_relative, assert_mentions, relative_error
from tests.nn.networks import WIDTH, exactly, inputs


class Block(nn.Module):
    """As transformers write them: a mask, an index, a tuple that is returned."""

    def __init__(self, index: int, *, width: int = WIDTH, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer_idx = index
        self.attention_type = "full"
        self.norm, self.inner = nn.LayerNorm(width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.register_buffer("scale", torch.rand(width))

    def forward(self, u: Tensor, mask: Tensor | None = None, cache: Any = None) -> tuple[Tensor, None]:
        if cache is not None:
            cache[self.layer_idx] = u
        f = 0.3 * self.drop(torch.tanh(self.inner(self.norm(u)))) * self.scale
        return u + (f if mask is None else f * mask), None


class Model(nn.Module):
    """Its own loop over its blocks, which stays as it is; head tied to the embedding."""

    def __init__(self, count: int = 9, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, WIDTH)
        self.h = nn.ModuleList(Block(i, **options) for i in range(count))
        self.head = nn.Linear(WIDTH, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, mask: Tensor | None = None, cache: Any = None) -> Tensor:
        u = self.embed(tokens)
        for block in self.h:
            u = block(u, mask=mask if block.attention_type == "full" else None, cache=cache)[0]
        return self.head(u)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_blocks_in_lower_precision(dtype: torch.dtype) -> None:
    """Those of every run; the ones in the buffer compute as before, and all do when they come back."""
    model, tokens = Model(), torch.randint(0, 5, (2, 3))
    exact = model(tokens)
    (part,) = parallelize(model, "h", solver=Serial(), buffer=(1, 1), block_dtype=dtype)
    assert part.block_dtype == dtype
    assert 0 < relative_error(model(tokens), exact) < 8 * torch.finfo(dtype).eps
    unparallelize(model, "h")
    assert torch.equal(model(tokens), exact)


def test_a_block_dtype_that_is_none_is_refused_before_anything_is_replaced() -> None:
    model = Model()
    blocks = list(model.h)
    with pytest.raises(ValueError, match=r"block_dtype is torch.float64; expected None, torch.bfloat16"):
        parallelize(model, "h", block_dtype=torch.float64)
    assert list(model.h) == blocks and all(theta.numel() for theta in model.parameters())


def loss_of(model: nn.Module, tokens: Tensor, mask: Tensor | None) -> Tensor:
    return nn.functional.cross_entropy(model(tokens, mask).flatten(0, 1), tokens.flatten())


def test_a_models_own_forward_runs_and_its_weights_come_back_bit_for_bit() -> None:
    model = Model().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens, mask = torch.randint(0, 5, (2, 3)), inputs(2, 3, 1, requires_grad=True)
    expected = loss_of(model, tokens, mask)
    expected.backward()
    gradients = {name: theta.grad.clone() for name, theta in model.named_parameters() if theta.grad is not None}
    dmask = mask.grad
    assert dmask is not None
    model.zero_grad()
    mask.grad = None

    (part,) = parallelize(model, "h", solver=exactly(9))
    assert part.num_steps == 9 and len(model.h) == 9 and part is model.h[0]
    loss = loss_of(model, tokens, mask)
    loss.backward()
    assert_close_relative(loss, expected)
    assert_close_relative(mask.grad, dmask)  # pyright: ignore
    assert part.forward_result is not None and len(part.forward_result.evaluations) > 1

    unparallelize(model, "h")
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [block.layer_idx for block in model.h] == list(range(9))  # pyright: ignore
    assert model.head.weight is model.embed.weight
    for name, theta in model.named_parameters():
        assert_close_relative(theta.grad, gradients[name], name)  # pyright: ignore


def test_training_goes_on_where_it_was() -> None:
    """Three steps serially, three in parallel, three serially: as nine serially."""
    torch.manual_seed(0)
    model = Model().double()
    reference, tokens, mask = copy.deepcopy(model), torch.randint(0, 5, (2, 3)), inputs(2, 3, 1)

    def steps(model: nn.Module, count: int) -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(count):
            optimizer.zero_grad()
            loss_of(model, tokens, mask).backward()
            optimizer.step()

    steps(reference, 9)
    steps(model, 3)
    parallelize(model, "h", solver=exactly(9, store="c_points"))
    steps(model, 3)
    unparallelize(model, "h")
    steps(model, 3)
    for (name, one), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert_close_relative(one, other, name)


def test_frozen_layers_end_a_run() -> None:
    """The first four frozen: their gradients are none, and nothing moves them."""
    model = Model().double()
    for block in list(model.h)[:4]:
        block.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    frozen, trained = parallelize(model, "h", solver=exactly(9))
    assert (frozen.num_steps, trained.num_steps) == (4, 5)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1, weight_decay=0.1)
    loss_of(model, torch.randint(0, 5, (2, 3)), None).backward()
    optimizer.step()
    unparallelize(model, "h")
    changed = {
        name.split(".")[1]
        for name, value in model.h.named_parameters(prefix="h")
        if not torch.equal(value, before[name])
    }
    assert changed == {"4", "5", "6", "7", "8"}
    assert [next(block.parameters()).requires_grad for block in model.h] == [False] * 4 + [True] * 5


def test_other_blocks_and_buffers_stay_and_names_come_back() -> None:
    model = nn.Sequential()
    model.h = nn.Sequential()
    for name in "abcdefgh":
        model.h.add_module(name, nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()))
    model.h[3] = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU())  # pyright: ignore
    model.double()
    names, x = list(model.state_dict()), inputs()
    expected = model.h(x)
    parts = parallelize(model, "h", solver=Serial(), buffer=(1, 1))
    assert [part.num_steps for part in parts] == [2, 3]
    assert [type(each).__name__ for each in model.h] == [  # pyright: ignore
        "Sequential",
        "ParallelBlocks",
        "Follower",
        "Sequential",
        "ParallelBlocks",
        "Follower",
        "Follower",
        "Sequential",
    ]
    assert_close_relative(model.h(x), expected)
    unparallelize(model, "h")
    assert list(model.state_dict()) == names
    assert_close_relative(model.h(x), expected)


def test_torchs_own_encoder() -> None:
    """nn.TransformerEncoder asks its first layer for attributes, and passes masks by keyword."""
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, 0.0, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, mask = inputs(2, 5, WIDTH), nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    expected = model(x, mask=mask)
    parallelize(model, "layers", solver=exactly(8))
    assert_close_relative(model(x, mask=mask), expected)


def test_weights_that_are_tied_within_a_block_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.b.weight = self.a.weight

        def forward(self, u: Tensor) -> Tensor:
            return u + 0.1 * self.b(torch.tanh(self.a(u)))

    model = nn.Sequential(nn.Sequential(*(Tied() for _ in range(5)))).double()
    x = inputs()
    expected = model(x)
    parallelize(model, "0", solver=exactly(5))
    assert_close_relative(model(x), expected)
    unparallelize(model, "0")
    assert all(block.a.weight is block.b.weight for block in model[0])  # pyright: ignore
    assert_close_relative(model(x), expected)


def test_low_rank_adapters() -> None:
    """Frozen base weights, trained factors, as peft writes them."""

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
            self.lora_A = nn.ModuleDict({"default": nn.Linear(WIDTH, 2, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(2, WIDTH, bias=False)})
            self.scaling = {"default": 0.5}

        def forward(self, u: Tensor) -> Tensor:
            low = self.lora_B["default"](self.lora_A["default"](u)) * self.scaling["default"]
            return u + 0.1 * torch.tanh(self.base(u) + low)

    model = nn.Sequential(nn.ModuleList(Adapted() for _ in range(6))).double()  # pyright: ignore
    (part,) = parallelize(model, "0", solver=exactly(6))
    part(inputs()).sum().backward()
    unparallelize(model, "0")
    for block in model[0]:  # pyright: ignore
        assert block.base.weight.grad is None and not block.base.weight.requires_grad
        assert block.lora_A["default"].weight.grad.abs().sum() > 0


def test_modes_are_kept() -> None:
    model = Model(dropout=0.5).double()
    for block in model.h:
        block.norm.eval()  # pyright: ignore
    (part,) = parallelize(model, "h")
    assert part.layers.drop.training and not part.layers.norm.training  # pyright: ignore
    model.eval()
    unparallelize(model, "h")
    assert not any(module.training for module in model.modules())


def test_neither_holds_on_to_the_other() -> None:
    model = Model()
    (part,) = parallelize(model, "h")
    assert sum(theta.numel() for block in part._before for theta in block.parameters()) == 0  # pyright: ignore
    gone = weakref.ref(part.layers)
    unparallelize(model, "h")
    del part
    gc.collect()
    assert gone() is None


class TestOfModules:
    def test_takes_copies(self) -> None:
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()).double() for _ in range(7)]
        before = torch.get_rng_state()
        net = LayerParallel.of_modules(None, blocks, solver=exactly(7))
        assert torch.equal(before, torch.get_rng_state()) and net.dt == 1.0
        x = inputs()
        u = x
        for block in blocks:
            u = block(u)
        assert_close_relative(net(x), u)
        net.layers[0].weight.data.zero_()  # pyright: ignore
        assert blocks[0][0].weight.abs().sum() > 0

    def test_other_forms(self) -> None:
        blocks = [nn.Linear(WIDTH, WIDTH).double() for _ in range(5)]
        net = LayerParallel.of_modules(None, blocks, form="rhs", Tf=1.0, scheme="rk4", solver=Serial())
        assert net.dt == 0.2
        assert_close_relative(net(inputs() * 0), net.to_sequential()(inputs() * 0))

    def test_layers_may_know_their_index_and_a_copy_knows_it_again(self) -> None:
        net = LayerParallel.of_modules(None, [Block(i + 3) for i in range(4)])
        assert [step.block.layer_idx for step in net.to_sequential()] == [3, 4, 5, 6]  # pyright: ignore
        copy.deepcopy(net)(torch.zeros(1, WIDTH))

    def test_a_block_that_computes_with_its_index_is_told(self) -> None:
        net = LayerParallel.of_modules(None, [Block(i) for i in range(4)])
        with pytest.raises(TypeError, match=r"its own index, layer_idx.*use_cache=False"):
            net(torch.zeros(1, WIDTH), cache={})


class TestStatesOfSeveralTensors:
    """Tuples and dicts."""

    @pytest.mark.parametrize("form", ["rhs", "residual"])
    @pytest.mark.parametrize("solver", [exactly(), exactly(store="c_points"), Serial()], ids=["all", "c", "serial"])
    def test_a_hamiltonian_pair(self, form: Any, solver: Any) -> None:
        class Pair(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.k = nn.Linear(3, 2)

            def forward(self, state: dict[str, Any], z: Tensor) -> dict[str, Any]:
                q, (p,) = state["q"], state["p"]
                dq, dp = torch.tanh(p.flatten(1)) + z, -torch.sin(self.k(q))[..., None]
                return {"q": 0.9 * q + 0.1 * dq[:, :1], "p": [0.1 * dp + 0.1 * p]}

        net = LayerParallel(None, Pair, 18, 1.0, form=form, solver=solver).double()
        q, p, z = (
            inputs(5, 3, requires_grad=True),
            inputs(5, 2, 1, requires_grad=True),
            inputs(18, 1, requires_grad=True),
        )
        came = net({"q": q, "p": [p]}, PerLayer(z))
        u: Any = {"q": q, "p": [p]}
        steps = net.to_sequential()
        for k, step in enumerate(steps):
            u = step(u, z[k])
        weights = inputs(5, 3), inputs(5, 2, 1)
        gradients = []
        for each in (came, u):
            loss = (each["q"] * weights[0]).sum() + (each["p"][0] * weights[1]).sum()
            gradients.append(torch.autograd.grad(loss, [q, p, z]))
        assert_close_relative(came["q"], u["q"])
        for one, other in zip(*gradients, strict=True):
            assert_close_relative(one, other)

    @pytest.mark.parametrize(
        ("x", "error", "words"),
        [
            ((torch.zeros(2, 3), "text"), TypeError, ["str", "tensors [batch, ...]"]),
            ((torch.zeros(2, 3), torch.zeros(3, 3)), ValueError, ["(2, 3)", "(3, 3)", "one batch"]),
            ((torch.zeros(2, 3), torch.zeros(2, 3).double()), ValueError, ["float64"]),
            ((), ValueError, ["no tensor"]),
        ],
    )
    def test_bad_ones(self, x: Any, error: Any, words: list[str]) -> None:
        with pytest.raises(error) as caught:
            LayerParallel(None, nn.Identity, 4, 1.0)(x)
        assert_mentions(caught.value, words)

    def test_a_block_that_returns_another(self) -> None:
        class First(nn.Module):
            def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
                return state[0]

        with pytest.raises(ValueError, match="keep the state's structure and shapes"):
            LayerParallel(None, First, 4, 1.0)((torch.zeros(2, 3), torch.zeros(2, 1)))


class TestBadInput:
    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda m: parallelize(m, "nowhere"), ValueError, ["'nowhere'"]),
            (lambda m: parallelize(m, "embed"), TypeError, ["Embedding", "nn.ModuleList"]),
            (lambda m: parallelize(m, "h", buffer=(5, 5)), ValueError, ["(5, 5)", "at most 9"]),
            (lambda m: parallelize(m, "h", buffer=(4, 4)), ValueError, ["no 2 equal blocks"]),
            (lambda m: parallelize(m, "h", buffer=2), TypeError, ["buffer is 2", "two integers"]),
            (lambda m: parallelize(m, "h", buffer=(1.5, 1)), TypeError, ["(1.5, 1)", "two integers"]),
            (lambda m: parallelize(m, "h", buffer=(1, 2, 3)), TypeError, ["(1, 2, 3)", "two integers"]),
            (lambda m: parallelize(m, "h", solver="serial"), TypeError, ["solver is 'serial'"]),
            (lambda m: unparallelize(m, "h"), ValueError, ["no blocks that parallelize() has replaced"]),
            (lambda m: (parallelize(m, "h"), parallelize(m, "h")), ValueError, ["parallelized already"]),
        ],
    )
    def test_arguments(self, call: Any, error: Any, words: list[str]) -> None:
        model = Model()
        with pytest.raises(error) as caught:
            call(model)
        assert_mentions(caught.value, words)
        model(torch.randint(0, 5, (2, 3)))  # is as it was

    def test_ties_across_blocks_and_out_of_them(self) -> None:
        model = Model()
        model.h[1].norm.weight = model.h[0].norm.weight  # pyright: ignore
        with pytest.raises(ValueError, match=r"share their parameter 'norm\.weight'"):
            parallelize(model, "h")
        model = Model()
        model.extra = model.h[3].inner
        with pytest.raises(ValueError, match="tied"):
            parallelize(model, "h")

    def test_blocks_that_return_more(self) -> None:
        class Chatty(nn.Module):
            def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
                return u, u

        model = nn.Sequential(nn.Sequential(Chatty(), Chatty(), Chatty()))
        parallelize(model, "0")
        with pytest.raises(ValueError, match=r"returns Tensor beside the next state.*use_cache"):
            model[0][0](torch.zeros(1, 3))  # pyright: ignore


def test_no_memory_grows() -> None:
    """Back and forth many times, with calls in between: no tensor is left behind."""
    model, tokens = Model(4), torch.randint(0, 5, (1, 2))

    def round_trip() -> None:
        parallelize(model, "h", solver=MGRIT(coarsening=2))
        loss_of(model, tokens, None).backward()
        model.zero_grad()
        unparallelize(model, "h")

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    for _ in range(3):
        round_trip()
    before = tensors()
    for _ in range(20):
        round_trip()
    assert tensors() <= before


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
def test_nested_tensors_of_an_encoder_in_eval_are_refused_with_the_cure() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True, dtype=torch.float64)
    model = nn.TransformerEncoder(layer, 4).eval()
    x, padding = inputs(2, 3, WIDTH), torch.tensor([[False, False, False], [False, False, True]])
    expected = model(x, src_key_padding_mask=padding)
    parallelize(model, "layers", solver=exactly(4))
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"nested.*nn\.TransformerEncoder, model\.use_nested_tensor = False"):
            model(x, src_key_padding_mask=padding)
        model.use_nested_tensor = False
        assert_close_relative(model(x, src_key_padding_mask=padding)[~padding], expected[~padding])
