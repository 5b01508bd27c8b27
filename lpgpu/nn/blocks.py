"""Blocks with kernels of their own: plain modules anywhere else, fused steps inside LayerParallel."""

import torch.nn.functional as F
from torch import Tensor, nn

from lpgpu.kernels.activations import activation_named


class Activate(nn.Module):
    """A pointwise nonlinearity by name: tanh, relu, smooth_relu (η = 0.1), silu or identity. Any shape, same shape out.

    >>> Activate("relu")(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])

    Raises:
        ValueError: for an unknown name.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        activation_named(name)
        self.name = name

    def forward(self, z: Tensor) -> Tensor:
        """g(z)."""
        return _FORMULAS[self.name](z)

    def extra_repr(self) -> str:
        return self.name


class DenseBlock(nn.Module):
    """f(u) = g(W u + b) on the last dimension, of size `width`: the right-hand side of a dense ODENet.

    Initialised as torch.nn.Linear.

    >>> DenseBlock(8)(torch.randn(5, 8)).shape
    torch.Size([5, 8])
    >>> net = LayerParallel(None, lambda: DenseBlock(8, "relu"), 100, Tf=1.0)

    Raises:
        ValueError: for a width below 1 or an unknown activation.
    """

    def __init__(self, width: int, activation: str = "tanh", *, bias: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        _positive("width", width)
        self.linear = nn.Linear(width, width, bias=bias, device=device, dtype=dtype)
        self.activation = Activate(activation)

    def check_state(self, u: Tensor) -> None:
        """Raise ValueError unless `u` is a state of this block, [..., width]."""
        width = self.linear.in_features
        if u.shape[-1] != width:
            raise ValueError(f"x is {tuple(u.shape)}; DenseBlock({width}) takes states [..., {width}]")

    def forward(self, u: Tensor) -> Tensor:
        """f(u); `u` and the result are [..., width]."""
        return self.activation(self.linear(u))


class ConvBlock(nn.Module):
    """f(u) = g(K ∗ u + b), or g(K² ∗ g(K¹ ∗ u + b¹) + b²): 3×3 convolutions with zero padding.

    Initialised as torch.nn.Conv2d.

    >>> ConvBlock(4)(torch.randn(2, 4, 28, 28)).shape
    torch.Size([2, 4, 28, 28])
    >>> net = LayerParallel(None, lambda: ConvBlock(4), 100, Tf=1.0)

    Raises:
        ValueError: for channels below 1, convolutions other than 1 or 2, or an unknown activation.
    """

    def __init__(
        self,
        channels: int,
        convolutions: int = 2,
        activation: str = "relu",
        *,
        bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        _positive("channels", channels)
        self.channels = channels
        if convolutions not in (1, 2):
            raise ValueError(f"convolutions is {convolutions!r}; expected 1 or 2")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias, device=device, dtype=dtype)
            for _ in range(convolutions)
        )
        self.activation = Activate(activation)

    def check_state(self, u: Tensor) -> None:
        """Raise ValueError unless `u` is a state of this block, [batch, channels, height, width], or of one image."""
        c = self.channels
        if u.ndim not in (3, 4) or u.shape[-3] != c:
            raise ValueError(f"x is {tuple(u.shape)}; ConvBlock({c}) takes states [batch, {c}, height, width]")

    def forward(self, u: Tensor) -> Tensor:
        """f(u); `u` and the result are [batch, channels, height, width]."""
        for convolution in self.convolutions:
            u = self.activation(convolution(u))
        return u


def _smooth_relu(z: Tensor) -> Tensor:
    eta = 0.1
    return (z.clamp(-eta, eta) + eta).square() / (4 * eta) + F.relu(z - eta)


_FORMULAS = {
    "identity": lambda z: z,
    "relu": F.relu,
    "silu": F.silu,
    "smooth_relu": _smooth_relu,
    "tanh": lambda z: z.tanh(),
}


def _positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected an integer ≥ 1")
