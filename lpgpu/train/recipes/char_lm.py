"""A causal transformer of 32 pre-norm blocks that predicts the next character of a text.

    u_0 = E x + P,   u_{k+1} = u_k + f_k(u_k),   scores = W norm(u_N), of every character

One block is one step (Δt = 1), as in any transformer. On coarse grids the sum of increments stands for the blocks that
a step spans (Picard, order 1): with GPT-2's initialisation it follows them to a few parts in a thousand, where one
block's increment times m is off by half. The text is the user's (`--text`), or the documentation that Python carries.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lpgpu.data import load_text
from lpgpu.train.setup.networks import TransformerOptions
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.recipe import Problem, Recipe


@dataclass(frozen=True, kw_only=True)
class TextOptions(TransformerOptions):
    """Options of the language model."""

    text: Path | None = option(None, "a text file in UTF-8 to learn from [the documentation inside Python]")
    characters: int = option(60000, "take so many characters of it, from the beginning; 0: all", least=0)
    context: int = option(64, "characters that a prediction may look back on", least=2)


class CharacterModel(nn.Module):
    """Scores `[batch, classes, context]` of the character after each of `[batch, context]`."""

    def __init__(self, classes: int, options: TextOptions) -> None:
        super().__init__()
        width = options.channels
        self.embed = nn.Embedding(classes, width)
        self.position = nn.Parameter(0.02 * torch.randn(options.context, width))
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = options.transformer(causal=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.position))).transpose(1, 2)


def build(options: TextOptions) -> Problem:
    """Network and data of the recipe."""
    dataset = _text(options)
    return Problem(network=CharacterModel(dataset.classes, options), dataset=dataset)


def _text(options: TextOptions):
    return load_text(options.text, context=options.context, characters=options.characters)


RECIPE = Recipe(
    name="char-lm",
    summary="causal transformer of 32 layers that predicts the next character of a text (any, or Python's own)",
    defaults=TextOptions(
        epochs=10,
        batch_size=16,
        learning_rate=2e-3,
        optimizer="adamw",
        weight_decay=0.01,
        clip=1.0,
        layers=32,
        channels=64,
        final_time=32.0,
        levels=2,
        coarsening=4,
        coarse_operator="picard",
        relaxation="F",
        iterations=1,
        adjoint_iterations=1,
        threads=1,
    ),
    build=build,
    prepare=_text,
)
