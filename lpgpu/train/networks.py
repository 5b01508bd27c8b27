"""The options of the two kinds of networks that recipes train, and the recurrent one that several of them share."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from lpgpu import GRU
from lpgpu.train.options import TrainOptions, option


@dataclass(frozen=True, kw_only=True)
class ODEOptions(TrainOptions):
    """Options of a recipe whose network is an ODE, u′ = f(u), one layer a step."""

    smoothness: float = option(0.0, "weight γ of the penalty γ/2 Σ‖θ_{k+1} − θ_k‖²/Δt over the layers k", least=0)

    layers: int = option(32, "steps of the ODE network", least=1)
    channels: int = option(8, "width of the ODE network", least=1)
    final_time: float = option(1.0, "T: each layer advances by Δt = T / layers", above=0)

    @property
    def network(self) -> str:
        return f"{self.layers} layers"


@dataclass(frozen=True, kw_only=True)
class GRUOptions(TrainOptions):
    """Options of a recipe whose network is a GRU, solved over the steps of its input sequence."""

    formulation: Literal["implicit", "classic"] = option(
        "implicit", "cell of the GRU; classic is torch.nn.GRU's, and diverges on coarse grids"
    )
    hidden_size: int = option(100, "width of the GRU", least=1)
    num_layers: int = option(2, "stacked layers of the GRU", least=1)
    dt: float = option(1.0, "Δt, the time between two elements of a sequence", above=0)

    @property
    def network(self) -> str:
        layers = "1 layer" if self.num_layers == 1 else f"{self.num_layers} layers"
        return f"{self.formulation} GRU, {layers} of {self.hidden_size}"


class SequenceClassifier(nn.Module):
    """Scores `[batch, classes]` of sequences `[batch, steps, features]`: linear in the last state of the last layer."""

    def __init__(self, features: int, classes: int, options: GRUOptions) -> None:
        super().__init__()
        self.gru = GRU(
            features,
            options.hidden_size,
            options.num_layers,
            batch_first=True,
            formulation=options.formulation,
            dt=options.dt,
            solver=options.layer_solver(),
        )
        self.head = nn.Linear(options.hidden_size, classes)

    def forward(self, x: Tensor) -> Tensor:
        _, h_n = self.gru(x)
        return self.head(h_n[-1])
