"""The options of the kinds of networks that recipes train, and two networks that several of them share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from lpgpu import GRU, LayerParallel
from lpgpu.nn import ConvBlock
from lpgpu.nn.schemes import Form, Scheme
from lpgpu.nn.transformer import TransformerBlock
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.options import TrainOptions
from lpgpu.train.setup.words import counted


@dataclass(frozen=True, kw_only=True)
class ODEOptions(TrainOptions):
    """Options of a recipe whose network is an ODE, u′ = f(u), one layer a step.

    >>> ODEOptions(layers=64, final_time=2.0).network
    '64 layers'
    """

    smoothness: float = option(0.0, "weight γ of the penalty γ/2 Σ‖θ_{k+1} − θ_k‖²/Δt over the layers k", least=0)

    layers: int = option(32, "steps of the ODE network", least=1)
    channels: int = option(8, "width of the ODE network", least=1)
    scheme: Scheme = option("euler", "how a layer advances u′ = f(u) by Δt")
    final_time: float = option(1.0, "T: each layer advances by Δt = T / layers", above=0)

    nested: int = option(
        0,
        "coarser networks trained first, each to start the next finer one; bare: as many as there are",
        least=0,
        bare=64,
    )
    nested_epochs: int | tuple[int, ...] = option(
        10,
        "nested: epochs of each coarser network; or one number per network, coarsest first: 40,20",
    )
    nested_coarsening: int = option(2, "nested, mgopt: how many times shallower each coarser network is", least=2)
    transfer: Literal["constant", "linear"] = option("constant", "nested, mgopt: prolongation of the layers' weights")
    mgopt: int = option(
        0, "coarser networks that MG/OPT corrects the weights with at every step; bare: one", least=0, bare=1
    )
    mgopt_steps: tuple[int, ...] = option(
        (1, 1, 4),
        "mgopt: steps of the optimizer before and after the coarse correction, and on the coarsest network",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        epochs = self.nested_epochs
        if min((epochs,) if isinstance(epochs, int) else epochs) < 1:
            raise InputError(f"nested_epochs is {epochs!r}; expected one integer ≥ 1, or several")
        if len(self.mgopt_steps) != 3 or min(self.mgopt_steps) < 0 or self.mgopt_steps[2] < 1:
            raise InputError(f"mgopt_steps is {self.mgopt_steps!r}; expected three integers ≥ 0, the last ≥ 1")
        if self.mgopt and self.clip:
            raise InputError(f"clip is {self.clip}, which would bend the coarse objectives; with mgopt expected 0")
        if self.mgopt and self.optimizer == "lbfgs":
            raise InputError("optimizer is 'lbfgs', which smooths nothing; with mgopt expected adam, adamw or sgd")

    @property
    def network(self) -> str:
        return counted(self.layers, "layer")

    def check_ranks(self) -> None:
        self.ranks.share(self.layers)

    def stack(self, block: Callable[[], nn.Module], *, form: Form = "rhs") -> LayerParallel:
        """The layers of these options, or this rank's share of them; `form` is what a block returns.

        A coarser network of nested iteration may have fewer layers than there are ranks: each then has it whole.
        """
        ranks, solver = self.ranks, self.layer_solver()
        shared = self.layers >= ranks.grid.layer_ranks
        comm, mine = (ranks.grid.layer_comm, len(ranks.share(self.layers))) if shared else (None, self.layers)
        return LayerParallel(comm, block, mine, self.final_time, scheme=self.scheme, form=form, solver=solver)


@dataclass(frozen=True, kw_only=True)
class TransformerOptions(ODEOptions):
    """Options of a recipe whose layers are pre-norm transformer blocks: one is one step, Δt = 1 with T = layers."""

    heads: int = option(4, "attention heads, which divide the width (--channels)", least=1)
    dropout: float = option(0.0, "dropout of attention and branches", least=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % self.heads:
            raise InputError(
                f"heads is {self.heads}, channels is {self.channels}; expected a number of heads that divides it"
            )

    def transformer(self, *, causal: bool) -> LayerParallel:
        """The blocks, on states `[batch, tokens, channels]`; `causal`: a token sees itself and those before it."""
        width, heads, layers, dropout = self.channels, self.heads, self.layers, self.dropout
        return self.stack(
            lambda: TransformerBlock(width, heads, layers=layers, causal=causal, dropout=dropout), form="residual"
        )


def image_classifier(side: int, classes: int, options: ODEOptions) -> nn.Module:
    """Scores `[batch, classes]` of grey images `[batch, 1, side, side]` by a convolutional ODE network.

    u_0 = relu(K ∗ x + b),   u_{k+1} = u_k + Δt relu(K²_k ∗ relu(K¹_k ∗ u_k + b¹_k) + b²_k),   scores = linear(mean over
    4×4 pixels of u_N), all convolutions 3×3 with zero padding.
    """
    channels = options.channels
    layers = options.stack(lambda: ConvBlock(channels))
    stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels * (side // 4) ** 2, classes))
    return nn.Sequential(stem, layers, head)


@dataclass(frozen=True, kw_only=True)
class GRUOptions(TrainOptions):
    """Options of a recipe whose network is a GRU, solved over the steps of its input sequence.

    >>> GRUOptions(num_layers=2, hidden_size=64).network
    'implicit GRU, 2 layers of 64'
    """

    formulation: Literal["implicit", "classic"] = option("implicit", "cell of the GRU; classic is torch.nn.GRU's")
    hidden_size: int = option(100, "width of the GRU", least=1)
    num_layers: int = option(2, "stacked layers of the GRU", least=1)
    dt: float = option(1.0, "Δt, the time between two elements of a sequence", above=0)

    @property
    def network(self) -> str:
        return f"{self.formulation} GRU, {counted(self.num_layers, 'layer')} of {self.hidden_size}"


class SequenceNetwork(nn.Module):
    """Scores `[batch, outputs]` of sequences `[batch, steps, features]`: linear in the last state of the last layer.

    One output for each class, or for each number that is to be predicted.

    Ranks that share the time steps are all given whole sequences; each passes its own piece to the GRU.
    """

    def __init__(self, features: int, outputs: int, options: GRUOptions) -> None:
        super().__init__()
        self.gru = GRU(
            features,
            options.hidden_size,
            options.num_layers,
            batch_first=True,
            formulation=options.formulation,
            dt=options.dt,
            comm=options.ranks.grid.layer_comm,
            solver=options.layer_solver(),
        )
        self._options = options
        self.head = nn.Linear(options.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        mine = self._options.ranks.share(x.shape[1])
        _, h_n = self.gru(x[:, mine.start : mine.stop])
        return self.head(h_n[-1])
