"""The networks of the study of coarse operators: how each is built, trained serially, and asked for a gradient."""

import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpgpu import GRU, LayerParallel, Serial
from lpgpu.data.mnist import MNIST, load_mnist
from lpgpu.train import find_recipe
from lpgpu.train.loop.trainer import Trainer, seed_everything

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A network of the study.

    Attributes:
        build: (data folder, seed) → the network with its initial weights, in fp32, and the batch of the gradient.
        train: (data folder, seed, seconds) → its trained weights, and what training reached, in words.
        steps: N of each solve; `solves`: how many follow each other.
        grids: (levels, m) to try, `cycles`: forward/adjoint.
    """

    name: str
    build: Callable[[Path, int], tuple[nn.Module, Batch]]
    train: Callable[[Path, int, float], tuple[dict[str, Tensor], str]]
    steps: int
    solves: int
    grids: tuple[tuple[int, int], ...]
    recurrent: bool = False


def recipe_case(name: str, recipe_name: str, *, epochs: int, batch: int, **settings) -> Case:
    """The network of a recipe with `settings`, trained as the recipe does; `batch` training examples are evaluated."""
    grids, steps, solves = settings.pop("grids"), settings.pop("steps"), settings.pop("solves", 1)
    recipe = find_recipe(recipe_name)

    def options_for(data_dir: Path, seed: int):
        chosen = settings | ({"data_dir": data_dir} if recipe_name == "uci-har" else {}) | {"seed": seed}
        return replace(recipe.defaults, solver="serial", device="cpu", epochs=epochs, threads=1, **chosen)

    def build(data_dir: Path, seed: int) -> tuple[nn.Module, Batch]:
        seed_everything(seed)
        problem = recipe.build(options_for(data_dir, seed))
        return problem.network, drawn_from(problem.dataset.train_inputs, problem.dataset.train_labels, batch, seed)

    def train(data_dir: Path, seed: int, seconds: float) -> tuple[dict[str, Tensor], str]:
        trainer, begun, record = Trainer(recipe, options_for(data_dir, seed)), time.process_time(), {}
        while trainer.epoch < epochs and time.process_time() - begun < seconds:
            record = trainer.run_epoch(lambda _: None)
        reached = f"loss {record['train_loss']:.3f}, test accuracy {100 * record['test_accuracy']:.1f} %"
        return trainer.network.state_dict(), f"{trainer.epoch} epochs, {reached}"

    return Case(name, build, train, steps, solves, grids, recurrent=recipe_name == "uci-har")


def drawn_from(inputs: Tensor, labels: Tensor, count: int, seed: int) -> Batch:
    """`count` examples, drawn from all by a generator of their own."""
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    return inputs[drawn], labels[drawn]


def train_on(
    network: nn.Module, draw: Callable[[torch.Generator], Batch], *, steps: int, rate: float, seed: int, seconds: float
) -> str:
    """Adam for so many steps or seconds on random batches, gradients clipped to norm 1; what it reached, in words."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    generator, begun, losses = torch.Generator().manual_seed(1 + seed), time.process_time(), []
    while len(losses) < steps and time.process_time() - begun < seconds:
        inputs, labels = draw(generator)
        optimizer.zero_grad()
        loss = loss_of(network(inputs), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    tail = losses[-20:]
    return f"{len(losses)} steps, loss {losses[0]:.3f} → {sum(tail) / len(tail):.3f} (mean of the last {len(tail)})"


def loss_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of scores [..., classes]."""
    return F.cross_entropy(scores.flatten(0, -2), labels.flatten())


class SequenceNet(nn.Module):
    """Scores of sequences [B, T, features]: a GRU, torch.nn.GRU or lpgpu.GRU, and a linear layer on its last state."""

    def __init__(self, gru: nn.GRU, classes: int) -> None:
        super().__init__()
        self.gru = gru
        self.head = nn.Linear(gru.hidden_size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[1][-1])


def remember_for(gru: nn.GRU, steps: int) -> None:
    """Biases of the update gate that keep a unit's state for 1 … `steps` steps: log U(1, steps − 1).

    Tallec & Ollivier, Can recurrent neural networks warp time? (ICLR 2018), for h = (1 − z) n + z h.
    """
    width = gru.hidden_size
    with torch.no_grad():
        gru.bias_ih_l0[width : 2 * width] = torch.empty(width).uniform_(1, steps - 1).log()
        gru.bias_hh_l0[width : 2 * width] = 0


def mnist_case() -> Case:
    """Sequential MNIST, pixel by pixel, T = 784, one layer of 96: trained as torch.nn.GRU, asked as lpgpu.GRU."""

    def trained_network(seed: int) -> nn.Module:
        seed_everything(seed)
        network = SequenceNet(nn.GRU(1, 96, batch_first=True), 10)
        remember_for(network.gru, 784)
        return network

    def build(data_dir: Path, seed: int) -> tuple[nn.Module, Batch]:
        network = SequenceNet(GRU(1, 96, batch_first=True, solver=Serial()), 10)
        network.load_state_dict(trained_network(seed).state_dict())
        images = load_mnist(MNIST, data_dir)
        return network, drawn_from(images.train_inputs.reshape(-1, 784, 1), images.train_labels, 4, seed)

    def train(data_dir: Path, seed: int, seconds: float) -> tuple[dict[str, Tensor], str]:
        images, network = load_mnist(MNIST, data_dir), trained_network(seed)
        inputs, labels = images.train_inputs.reshape(-1, 784, 1), images.train_labels

        def draw(generator: torch.Generator) -> Batch:
            drawn = torch.randint(len(labels), (32,), generator=generator)
            return inputs[drawn], labels[drawn]

        said = train_on(network, draw, steps=4000, rate=3e-3, seed=seed, seconds=seconds)
        with torch.no_grad():
            scores = network(images.test_inputs[:1000].reshape(-1, 784, 1))
        right = (scores.argmax(-1) == images.test_labels[:1000]).float().mean()
        return network.state_dict(), f"{said}, {100 * float(right):.1f} % of 1000 test images right"

    grids = ((2, 4), (2, 8), (2, 28), (3, 4), (3, 8), (4, 4))
    return Case("seq-mnist", build, train, 784, 1, grids, recurrent=True)


class PreNormBlock(nn.Module):
    """u + attention(norm(u)), then u + MLP(norm(u)): a block of GPT-2, causal; returns the next state."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, u: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in self.qkv(self.norm_1(u)).chunk(3, -1)
        )
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        above = torch.ones(u.shape[-2], u.shape[-2], dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(above, -torch.inf).softmax(-1) @ v
        u = u + self.out(mixed.transpose(-3, -2).flatten(-2))
        return u + self.down(F.gelu(self.up(self.norm_2(u))))


class Transformer(nn.Module):
    """Scores of the next character: embedding, 32 pre-norm blocks with Δt = 1, norm, linear."""

    def __init__(self, vocabulary: int, *, gpt2: bool, layers: int = 32, width: int = 64, context: int = 64) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = LayerParallel(
            None, lambda: PreNormBlock(width, 4), layers, float(layers), form="residual", solver=Serial()
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if gpt2:
            self.apply(lambda module: init_gpt2(module, layers))

    def forward(self, tokens: Tensor) -> Tensor:
        u = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(u)))


def init_gpt2(module: nn.Module, layers: int) -> None:
    """N(0, 0.02²) everywhere, divided by √(2 layers) on what is added to the residual stream; no biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, PreNormBlock):
        with torch.no_grad():
            module.out.weight /= (2 * layers) ** 0.5
            module.down.weight /= (2 * layers) ** 0.5


def transformer_case(initialisation: str) -> Case:
    """A character-level language model on the files of Python's own library."""

    def network(seed: int) -> tuple[nn.Module, Tensor]:
        folder = Path(sysconfig.get_path("stdlib"))
        text = "".join((folder / name).read_text() for name in ("argparse.py", "ast.py", "asyncio/base_events.py"))
        letters = sorted(set(text))
        seed_everything(seed)
        codes = torch.tensor([letters.index(letter) for letter in text])
        return Transformer(len(letters), gpt2=initialisation == "GPT-2"), codes

    def draw(codes: Tensor, generator: torch.Generator, count: int) -> Batch:
        starts = torch.randint(len(codes) - 65, (count,), generator=generator)
        pieces = codes[starts[:, None] + torch.arange(65)]
        return pieces[:, :-1], pieces[:, 1:]

    def build(_: Path, seed: int) -> tuple[nn.Module, Batch]:
        net, codes = network(seed)
        return net, draw(codes, torch.Generator().manual_seed(seed), 4)

    def train(_: Path, seed: int, seconds: float) -> tuple[dict[str, Tensor], str]:
        net, codes = network(seed)
        said = train_on(net, lambda g: draw(codes, g, 16), steps=300, rate=1e-3, seed=seed, seconds=seconds)
        return net.state_dict(), said

    return Case(f"transformer {initialisation}", build, train, 32, 1, ((2, 2), (2, 4), (2, 8), (3, 2), (3, 4)))


DEEP = ((2, 8), (2, 16), (3, 4), (3, 8), (4, 4), (5, 4))
SHALLOW = ((2, 2), (2, 4), (2, 8), (3, 2), (3, 4))
SEQUENCE = ((2, 4), (2, 8), (2, 16), (3, 4))

CASES = [
    recipe_case("peaks 512", "peaks", epochs=500, batch=200, layers=512, steps=512, grids=DEEP),
    recipe_case("digits 32", "digits", epochs=16, batch=50, layers=32, steps=32, grids=SHALLOW),
    recipe_case(
        "uci-har implicit", "uci-har", epochs=3, batch=20, steps=128, solves=2, grids=SEQUENCE, formulation="implicit"
    ),
    recipe_case(
        "uci-har classic", "uci-har", epochs=3, batch=20, steps=128, solves=2, grids=SEQUENCE, formulation="classic"
    ),
    recipe_case("digits 32 rough", "digits", epochs=16, batch=50, layers=32, smoothness=0.0, steps=32, grids=SHALLOW),
    transformer_case("GPT-2"),
    transformer_case("PyTorch"),
    recipe_case("digits 256", "digits", epochs=16, batch=10, layers=256, steps=256, grids=DEEP),
    mnist_case(),
]
