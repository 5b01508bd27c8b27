"""Packed batches in and out, as torch's recurrent networks take and return them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from lpgpu import GRU, MGRIT, Serial
from tests.assertions import assert_close_relative

FEATURES, WIDTH, STEPS = 3, 4, 12
BATCHES: dict[str, tuple[list[int], bool]] = {
    "sorted": ([12, 9, 9, 1], True),
    "unsorted": ([3, 12, 1, 12, 7], False),
    "of one length": ([12, 12, 12], True),
    "of one sequence": ([5], False),
}


def pair(**options: Any) -> tuple[GRU, nn.GRU]:
    """Ours, classic and serial, and torch's, of the same weights."""
    theirs = nn.GRU(FEATURES, WIDTH, **options, dtype=torch.float64)
    ours = GRU(FEATURES, WIDTH, **options, formulation="classic", solver=Serial(), dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def batch(name: str) -> tuple[PackedSequence, list[Tensor]]:
    """Packed sequences, and they themselves, which want gradients."""
    lengths, enforce_sorted = BATCHES[name]
    sequences = [torch.randn(n, FEATURES, dtype=torch.float64, requires_grad=True) for n in lengths]
    return pack_sequence(sequences, enforce_sorted=enforce_sorted), sequences


def assert_same_packing(came: PackedSequence, expected: PackedSequence) -> None:
    assert type(came) is PackedSequence
    assert_close_relative(came.data, expected.data)
    for one, other in zip(came[1:], expected[1:], strict=True):
        assert other is None if one is None else torch.equal(one, other)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}], ids=["one", "deep", "batch first"]
)
def test_outputs_and_gradients_are_torchs(name: str, with_hx: bool, options: dict[str, Any]) -> None:
    ours, theirs = pair(**options)
    packed, sequences = batch(name)
    hx = torch.randn(len(ours.forward_results), len(sequences), WIDTH, dtype=torch.float64) if with_hx else None
    (came, h), (expected, h_n) = ours(packed, hx), theirs(packed, hx)
    assert_same_packing(came, expected)
    assert_close_relative(h, h_n)
    of_output, of_h = torch.randn_like(came.data), torch.randn_like(h)

    def gradients(gru: nn.GRU, output: PackedSequence, h: Tensor) -> Any:
        loss = (output.data * of_output).sum() + (h * of_h).sum()
        return torch.autograd.grad(loss, (*sequences, *gru.parameters()), retain_graph=True)

    for one, other in zip(gradients(ours, came, h), gradients(theirs, expected, h_n), strict=True):
        assert_close_relative(one, other)


def test_an_order_of_ones_own_stays() -> None:
    """Of equally long sequences any may come first: the order is the one that came with the data, not a new sort's."""
    ours, theirs = pair()
    x = torch.randn(STEPS, 3, FEATURES, dtype=torch.float64)
    order = torch.tensor([2, 0, 1])
    data, sizes, *_ = pack_padded_sequence(x[:, order], torch.tensor([7, 7, 7]))
    packed = PackedSequence(data, sizes, order, order.argsort())
    hx = torch.randn(1, 3, WIDTH, dtype=torch.float64)
    (came, h), (expected, h_n) = ours(packed, hx), theirs(packed, hx)
    assert_same_packing(came, expected)
    assert_close_relative(h, h_n)


@pytest.mark.parametrize("solver", [MGRIT(), MGRIT(store="c_points")], ids=["all", "C-points"])
def test_a_packed_batch_is_a_padded_one_with_lengths(solver: MGRIT) -> None:
    gru = GRU(FEATURES, WIDTH, 2, solver=solver, dtype=torch.float64)
    lengths, x = torch.tensor([5, STEPS, 9]), torch.randn(STEPS, 3, FEATURES, dtype=torch.float64)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    (came, h), (output, h_n) = gru(packed), gru(x, lengths=lengths)
    assert_close_relative(came.data, pack_padded_sequence(output, lengths, enforce_sorted=False).data)
    assert_close_relative(h, h_n)


def test_in_half_precision_under_autocast() -> None:
    packed, _ = batch("unsorted")
    gru = GRU(FEATURES, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = gru(packed.to(torch.bfloat16))
    assert output.data.dtype == torch.bfloat16
