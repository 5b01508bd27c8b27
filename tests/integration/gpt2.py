"""A small GPT-2 of Hugging Face's, built from a configuration: no weights are loaded."""

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT

EXACT = MGRIT(coarsening=2, iterations=3, adjoint_iterations=3)  # of six layers


def gpt2(dropout: float = 0.0) -> nn.Module:
    """Six small layers, in fp64."""
    reason = "needs Hugging Face's transformers: pip install transformers"
    transformers = pytest.importorskip("transformers", reason=reason)
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
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        attn_implementation="eager",
    )
    return transformers.GPT2LMHeadModel(config).double()


def loss_of(model: nn.Module, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Of the next token, with the tokens that `mask` leaves."""
    return model(input_ids=tokens, attention_mask=mask, labels=tokens).loss
