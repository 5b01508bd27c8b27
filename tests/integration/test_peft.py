"""LoRA adapters of peft on a model whose blocks are made layer-parallel: they alone are trained, and come back."""

import copy

import pytest
import torch
from torch import nn

from lpgpu import Serial, parallelize, unparallelize
from tests.assertions import assert_close_relative
from tests.integration.gpt2 import EXACT, gpt2, loss_of

peft = pytest.importorskip("peft", reason="needs Hugging Face's peft: pip install peft")

BLOCKS = "base_model.model.transformer.h"


def with_adapters(dropout: float = 0.0) -> nn.Module:
    """GPT-2 with adapters of rank 2, that are not zero, in every attention and feed-forward part."""
    options = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "init_lora_weights": False}
    return peft.get_peft_model(gpt2(), peft.LoraConfig(r=2, lora_dropout=dropout, **options)).double()


def test_adapters_are_trained_in_parallel_and_come_back() -> None:
    model, tokens = with_adapters(), torch.randint(0, 17, (2, 9))
    before, reference = copy.deepcopy(model.state_dict()), copy.deepcopy(model)
    (part,) = parallelize(model, BLOCKS, solver=EXACT)
    assert {theta.requires_grad for theta in part.parameters()} == {True, False}
    for each in (model, reference):
        optimizer = torch.optim.AdamW([theta for theta in each.parameters() if theta.requires_grad], 1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(each, tokens).backward()
            optimizer.step()
    unparallelize(model, BLOCKS)
    assert list(model.state_dict()) == list(before)
    for (name, one), other in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert one.requires_grad == ("lora_" in name), name
        assert torch.equal(one, before[name]) != one.requires_grad, name
        assert_close_relative(one, other[1], name, tolerance=1e-8)
    adapters = peft.get_peft_model_state_dict(model)
    assert adapters.keys() == peft.get_peft_model_state_dict(reference).keys()


def test_adapters_are_switched_off_as_before() -> None:
    model, tokens = with_adapters().eval(), torch.randint(0, 17, (2, 9))
    reference = copy.deepcopy(model)
    parallelize(model, BLOCKS, solver=EXACT)
    with model.disable_adapter(), reference.disable_adapter():
        assert_close_relative(loss_of(model, tokens), loss_of(reference, tokens), tolerance=1e-12)
    assert_close_relative(loss_of(model, tokens), loss_of(reference, tokens), tolerance=1e-12)


def test_dropout_of_adapters_is_drawn_once_a_call() -> None:
    """The same seed, the same loss, layer by layer and in many sweeps."""
    model, tokens = with_adapters(dropout=0.5).train(), torch.arange(9)[None]
    (part,) = parallelize(model, BLOCKS)
    losses = []
    for part.solver in (Serial(), EXACT):
        torch.manual_seed(1)
        losses.append(loss_of(model, tokens))
    assert_close_relative(losses[0], losses[1], tolerance=1e-12)
    assert loss_of(model, tokens) != losses[1]
