"""LSTM is torch.nn.LSTM: interface, values and gradients, at the solver's exactness."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lpgpu import LSTM, MGRIT, Serial
from tests.assertions import assert_close_relative, relative_error
from tests.nn.networks import exactly

T, B, F, H = 19, 3, 2, 4

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "without bias": {"bias": False},
    "batch first": {"batch_first": True, "num_layers": 2},
    "projected": {"proj_size": 3, "num_layers": 2, "bidirectional": True},
}


def pair(solver: Any = None, **kind: Any) -> tuple[LSTM, nn.LSTM]:
    """Ours and PyTorch's, of the same weights, in fp64."""
    theirs = nn.LSTM(F, H, **kind).double()
    ours = LSTM(F, H, **kind, solver=solver or exactly(T)).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(*shape: int) -> Tensor:
    return torch.randn(*(shape or (T, B, F)), dtype=torch.float64, requires_grad=True)


def initial(net: nn.LSTM, batch: int = B) -> tuple[Tensor, Tensor]:
    count = net.num_layers * (2 if net.bidirectional else 1)
    return tuple(inputs(count, batch, size) for size in (net.proj_size or H, H))  # pyright: ignore


def everything(net: nn.LSTM, x: Tensor, hx: tuple[Tensor, Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Output, last states, and all gradients of a loss of them."""
    output, (h, c) = net(x, hx)
    loss = sum(((y * w).sum() for y, w in zip((output, h, c), weights, strict=True)), torch.zeros(()))
    return [output, h, c, *torch.autograd.grad(loss, [x, *hx, *net.parameters()])]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("solver", [exactly(T), exactly(T, store="c_points"), Serial()], ids=["all", "c", "serial"])
def test_values_and_gradients_are_torchs(kind: dict[str, Any], solver: Any) -> None:
    ours, theirs = pair(solver, **kind)
    x, hx = inputs(*((B, T, F) if theirs.batch_first else (T, B, F))), initial(theirs)
    output, (h, c) = theirs(x, hx)
    weights = [torch.randn_like(each) for each in (output, h, c)]
    for came, expected in zip(everything(ours, x, hx, weights), everything(theirs, x, hx, weights), strict=True):
        assert_close_relative(came, expected)


def test_the_state_may_be_left_out_and_input_unbatched() -> None:
    ours, theirs = pair(num_layers=2)
    for x in (inputs(), inputs(T, F)):
        for came, expected in zip(*([y, *s] for y, s in (ours(x), theirs(x))), strict=True):
            assert came.is_contiguous()
            assert_close_relative(came, expected)


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_sequences_come_back_as_torchs(enforce_sorted: bool) -> None:
    ours, theirs = pair(num_layers=2, bidirectional=True)
    lengths = torch.tensor([19, 12, 5] if enforce_sorted else [12, 5, 19])
    packed = pack_padded_sequence(inputs().detach(), lengths, enforce_sorted=enforce_sorted)
    hx = initial(theirs)
    (came, (h, c)), (expected, (h_n, c_n)) = ours(packed, hx), theirs(packed, hx)
    assert torch.equal(came.batch_sizes, expected.batch_sizes)
    for one, other in ((came.data, expected.data), (h, h_n), (c, c_n)):
        assert_close_relative(one, other)
    from_lengths, _ = ours(*pad_packed_sequence(packed)[:1], hx, lengths=lengths)
    assert_close_relative(pad_packed_sequence(came)[0], from_lengths)


def test_resets() -> None:
    ours, theirs = pair(num_layers=2)
    x, resets = inputs(T, 1, F), torch.zeros(T, 1, dtype=torch.bool)
    resets[7] = True
    expected = torch.cat([theirs(x[:7])[0], theirs(x[7:])[0]])
    assert_close_relative(ours(x, resets=resets)[0], expected)
    unbatched, _ = ours(x[:, 0], resets=resets[:, 0])
    assert_close_relative(unbatched, expected[:, 0])


def test_frozen_gates_on_coarse_levels_are_near_after_a_cycle() -> None:
    """Over 60 draws the worst error of any output or gradient was 0.086, the median of the worst 0.008."""
    ours, theirs = pair(MGRIT(levels=2, coarsening=8, iterations=1, adjoint_iterations=1))
    x, hx = inputs(128, B, F), initial(theirs)
    weights = [inputs(128, B, H), inputs(1, B, H), inputs(1, B, H)]
    for came, expected in zip(everything(ours, x, hx, weights), everything(theirs, x, hx, weights), strict=True):
        assert relative_error(came, expected) < 0.25


class TestBadInput:
    @pytest.mark.parametrize(
        ("call", "error", "match"),
        [
            (lambda net, x: net(x[..., :1]), RuntimeError, "must be equal to input_size"),
            (lambda net, x: net(x[None]), ValueError, "2D or 3D"),
            (lambda net, x: net(x.float()), ValueError, "float32"),
            (lambda net, x: net(x, x), TypeError, "pair of tensors"),
            (lambda net, x: net(x, (inputs(1, B, H), inputs(1, B + 1, H))), RuntimeError, "Expected hidden"),
            (lambda net, x: net(x, (inputs(1, H), inputs(1, H))), RuntimeError, "dimensions"),
            (lambda net, x: net(x[:0]), RuntimeError, "larger than 0"),
            (lambda net, x: net(x * torch.inf), ValueError, "NaN or infinite"),
            (lambda net, x: net(x, lengths=torch.tensor([0, 1, 2])), ValueError, "from 0 to 2; expected 1 to 19"),
            (
                lambda net, x: net(pack_padded_sequence(x, [19, 2, 1]), lengths=torch.tensor([1, 1, 1])),
                ValueError,
                "only one of the two",
            ),
        ],
    )
    def test_calls(self, call: Any, error: Any, match: str) -> None:
        with pytest.raises(error, match=match):
            call(pair()[0], inputs())
