"""Layers of `ConvBlock` under Euler's scheme, by the operation `lpgpu.kernels.conv_step`."""

from collections.abc import Sequence

from torch import Tensor

from lpgpu.kernels import conv_step
from lpgpu.nn.propagators.layers import Layers, Linearisation


class ConvLayers(Layers):
    """u + Δt g(K_k ∗ … + b_k): for each convolution weights [layers, C, C, 3, 3] and biases [layers, C] or None."""

    def __init__(self, kernels: list[conv_step.Kernel], activation: str) -> None:
        self.kernels = [conv_step.Kernel(w.detach(), None if b is None else b.detach()) for w, b in kernels]
        self.activation = activation

    def advance(
        self, layers: slice, dt: float, u: Tensor, out: Tensor, *, keep: bool = False, diagonal: Tensor | None = None
    ) -> conv_step.Kept | None:
        kept = conv_step.advance(u, self._of(layers), dt, self.activation, out, keep=keep)
        return kept if keep else None

    def linearise(self, layers: slice, dt: float, u: Tensor, kept: conv_step.Kept | None = None) -> Linearisation:
        kernels = self._of(layers)
        return _Linearised(kernels, self.activation, dt, u, kept or conv_step.kept(u, kernels, self.activation))

    def _of(self, layers: slice) -> list[conv_step.Kernel]:
        return [conv_step.Kernel(w[layers], None if b is None else b[layers]) for w, b in self.kernels]


class _Linearised(Linearisation):
    def __init__(
        self, kernels: list[conv_step.Kernel], activation: str, dt: float, u: Tensor, kept: conv_step.Kept
    ) -> None:
        self.kernels = kernels
        self.activation = activation
        self.dt = dt
        self.u = u
        self.kept = kept

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        conv_step.vjp(lam, self.kept, self.kernels, self.dt, self.activation, out)

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        gradients = conv_step.parameter_gradient(lam, self.kept, self.u, self.kernels, self.dt, self.activation)
        with_bias = [kernel.b is not None for kernel in self.kernels]
        return [d for pair, both in zip(gradients, with_bias, strict=True) for d in pair[: 1 + both]]
