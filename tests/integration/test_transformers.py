"""Hugging Face's own models, built from a configuration (no weights are loaded), made layer-parallel and back."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, parallelize, unparallelize
from tests.assertions import assert_close_relative

transformers = pytest.importorskip("transformers", reason="needs Hugging Face's transformers: pip install transformers")

EXACT = MGRIT(coarsening=2, iterations=3, adjoint_iterations=3)


def gpt2(dropout: float = 0.0) -> nn.Module:
    """GPT-2 of six small layers, in fp64."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=17,
        n_positions=16,
        n_embd=8,
        n_layer=6,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=0.0,
        attn_pdrop=dropout,
        use_cache=False,
        attn_implementation="eager",
    )
    return transformers.GPT2LMHeadModel(config).double()


def loss_of(model: nn.Module, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    return model(input_ids=tokens, attention_mask=mask, labels=tokens).loss


def test_gpt2_is_trained_in_parallel_and_comes_back() -> None:
    model = gpt2()
    reference, tokens = copy.deepcopy(model), torch.randint(0, 17, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    names = list(model.state_dict())
    parallelize(model, "transformer.h", solver=EXACT)
    for each in (model, reference):
        optimizer = torch.optim.SGD(each.parameters(), 0.5)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(each, tokens, mask).backward()
            optimizer.step()
    unparallelize(model, "transformer.h")
    assert list(model.state_dict()) == names
    for (name, one), other in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert_close_relative(one, other[1], name, tolerance=1e-10)
    assert_close_relative(loss_of(model, tokens, mask), loss_of(reference, tokens, mask), tolerance=1e-10)


def test_an_inexact_solve_trains() -> None:
    """A hundred steps with dropout, one cycle each: the loss falls far below that of guessing."""
    model, tokens = gpt2(dropout=0.1).float(), torch.randint(0, 17, (4, 9))
    parallelize(model, "transformer.h", solver=MGRIT(levels=2, coarsening=2, iterations=1, adjoint_iterations=1))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        optimizer.step()
    unparallelize(model, "transformer.h")
    assert loss_of(model.eval(), tokens).item() < 1.0 < torch.log(torch.tensor(17.0)).item()


def test_a_cache_is_refused_with_the_cure() -> None:
    model = gpt2()
    parallelize(model, "transformer.h", solver=EXACT)
    with pytest.raises(TypeError, match="use_cache=False"):
        model(input_ids=torch.randint(0, 17, (1, 4)), use_cache=True)
