"""Layers of any block: `torch.func` batches one module over its stacked parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lpgpu.nn.propagators.layers import Layers, Linearisation
from lpgpu.nn.schemes import SCHEMES

Named = dict[str, Tensor]

_VMAP_REFUSAL = ("vmap", "functorch", "torch.func", "Batching rule")


class FunctionalLayers(Layers):
    """`module` with its parameters and buffers replaced by those of K layers, under `torch.func.vmap`."""

    def __init__(self, module: nn.Module, parameters: Named, buffers: Named, scheme: str, form: str, dt: float) -> None:
        self.module = module
        self.parameters = parameters
        self.buffers = buffers
        self.scheme = scheme
        self.form = form
        self.dt = dt

    def advance(
        self, layers: slice, u: Tensor, out: Tensor, *, keep: bool = False, diagonal: Tensor | None = None
    ) -> None:
        out.copy_(self._phi(_sliced(self.parameters, layers), layers, u))

    def linearise(self, layers: slice, u: Tensor, kept: None = None) -> Linearisation:
        theta = {
            name: values.detach().requires_grad_(self.parameters[name].requires_grad)
            for name, values in _sliced(self.parameters, layers).items()
        }
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            return _Graph(u, list(theta.values()), self._phi(theta, layers, u))

    def differentiable(self, layers: slice, u: Tensor) -> Tensor:
        """Φ_k(u_k) of K layers, [K, ...], for autograd to differentiate in u and the parameters, as often as wanted."""
        return self._phi(_sliced(self.parameters, layers), layers, u)

    def _phi(self, theta: Named, layers: slice, u: Tensor) -> Tensor:
        """Φ_k(u_k) of all K layers, checked to be states like those that came in."""

        def phi(theta: Named, buffers: Named, u: Tensor) -> Tensor:
            def block(*arguments):
                out = functional_call(self.module, {**theta, **buffers}, arguments)
                _check_like(out, u)
                return out

            return block(self.dt, u) if self.form == "step" else SCHEMES[self.scheme](block, self.dt, u)

        buffers = _sliced(self.buffers, layers)
        versions = {name: buffer._version for name, buffer in self.buffers.items()}
        version_of_u = u._version
        out = _batched(phi, theta, buffers, u)
        if u._version != version_of_u:
            raise RuntimeError(
                "the block changes its input in place. A solve visits a state several times, so a block must leave it"
                " as it is: take inplace=False, or begin the block with x = x.clone()"
            )
        changed = [name for name, buffer in self.buffers.items() if buffer._version != versions[name]]
        if changed:
            raise RuntimeError(
                f"the block changes its buffers {changed} while it propagates. A solve visits a layer several times,"
                " so a block must be a function of its input: freeze them (eval mode, track_running_stats=False)"
            )
        return out


class _Graph(Linearisation):
    """Autograd's graph of one batched step; every λ walks it again."""

    def __init__(self, u: Tensor, theta: list[Tensor], out: Tensor) -> None:
        self.u = u
        self.theta = theta
        self.out = out

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        out.copy_(self._pull_back(lam, [self.u])[0])

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        wanted = [theta for theta in self.theta if theta.requires_grad]
        gradients = iter(self._pull_back(lam, wanted) if wanted else ())
        return [next(gradients) if theta.requires_grad else None for theta in self.theta]

    def _pull_back(self, lam: Tensor, inputs: list[Tensor]) -> Sequence[Tensor]:
        if not self.out.requires_grad:
            return [torch.zeros_like(each) for each in inputs]
        return torch.autograd.grad(self.out, inputs, lam, retain_graph=True, allow_unused=True, materialize_grads=True)


def _sliced(named: Named, layers: slice) -> Named:
    return {name: values[layers] for name, values in named.items()}


def _batched(phi: Callable[..., Tensor], *arguments) -> Tensor:
    try:
        return torch.vmap(phi)(*arguments)
    except RuntimeError as error:
        if not any(word in str(error) for word in _VMAP_REFUSAL):
            raise
        raise RuntimeError(
            f"torch.vmap cannot batch this block over the layers: {error}\n"
            "A block must be a pure function of its input: write data-dependent branches with torch.where, keep values "
            "as tensors (no .item()), leave out dropout and other random draws (or use eval mode), use GroupNorm or "
            "LayerNorm instead of BatchNorm"
        ) from error


def _check_like(out: object, u: Tensor) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"the block returned {type(out).__name__}; expected a tensor")
    for what in ("shape", "dtype", "device"):
        came, expected = getattr(out, what), getattr(u, what)
        if came != expected:
            came, expected = (tuple(came), tuple(expected)) if what == "shape" else (came, expected)
            raise ValueError(
                f"the block changes the state's {what} from {expected} to {came}; every layer must keep it"
            )
