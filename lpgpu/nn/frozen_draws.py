"""Random draws inside a block (dropout, drop path, noise), frozen for one call of its network.

A solve evaluates a layer many times: in every sweep, on every level, again in the adjoint. A layer must therefore draw
the same numbers each time, whichever rank or window evaluates it. Draw number d of layer k is a function of the call:

    bits(i) = mix(key + (i + 1) γ),   key = mix(mix(seed + d γ) + (k + 1) γ)        for the elements i of the draw

the counter-based form of SplitMix64 (Steele, Lea & Flood 2014), so that nothing is stored. `seed` is one draw from the
user's generator. Draws are caught below `torch.vmap(randomness="different")`, where those of K layers are one tensor
[K, ...] whatever asked for it: nn.Dropout, the attention dropout of nn.MultiheadAttention, torch.rand.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lpgpu.comm import Communicator

aten = torch.ops.aten

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_BITS = {torch.float64: 52, torch.float16: 11, torch.bfloat16: 8}  # of a uniform number; else 24


class Draws:
    """Those of one call: its seed, and whether any number was drawn."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.any = False


@contextmanager
def draws_of_call(communicator: Communicator) -> Iterator[Draws]:
    """The draws of one call, the same on all ranks: one number of the user's generator, or none where none is drawn."""
    ahead = torch.Generator()
    ahead.set_state(torch.get_rng_state())
    draws = Draws(communicator.allgather(int(torch.randint(2**62, (), generator=ahead)))[0])
    yield draws
    if draws.any:  # the generator is never set back: what other threads draw meanwhile would come twice
        torch.randint(2**62, ())


@contextmanager
def refusing_other_generators() -> Iterator[None]:
    """Raise RuntimeError where what is done within the context draws from Python's or numpy's own generator."""
    before = random.getstate(), _numpy_state()
    yield
    if (random.getstate(), _numpy_state()) != before:
        raise RuntimeError(
            "the block draws random numbers from Python's random or from numpy, which cannot be frozen for a solve; "
            "draw them with torch"
        )


class FrozenDraws(TorchDispatchMode):
    """Within the context every random operation on tensors [K, ...] draws what is frozen for K layers.

    `layers` [K] are their indices in the network; `number` counts the draws of one evaluation.

    Raises:
        RuntimeError: for draws that cannot be frozen, naming the cure.
    """

    def __init__(self, draws: Draws, layers: Tensor) -> None:
        super().__init__()
        self.draws = draws
        self.layers = layers
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (answer := _ANSWERS.get(func)) is not None and kwargs.get("generator") is None:
            return answer(self, *args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags and _dropout_of(func, args, kwargs) != 0:
            raise RuntimeError(_refusal(func))
        return func(*args, **kwargs)

    def uniform(self, shape: Sequence[int], bits: int) -> Tensor:
        """Integers in [0, 2^bits), int64, of `shape` [K, ...]."""
        count = len(self.layers)
        if not shape or shape[0] != count:
            raise RuntimeError(
                f"the block draws {tuple(shape)} random numbers where one draw for each of {count} layers was "
                "expected: dropout of a tensor that is the same for all layers; apply it before the call"
            )
        self.number += 1
        self.draws.any = True
        base = _mixed_int(self.draws.seed + self.number * _GAMMA)
        keys = _mixed((self.layers + 1) * _signed(_GAMMA) + _signed(base))
        elements = torch.arange(1, math.prod(shape[1:]) + 1, device=self.layers.device) * _signed(_GAMMA)
        return (_mixed(keys[:, None] + elements) >> (64 - bits) & (1 << bits) - 1).view(tuple(shape))

    def fractions(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Uniform on [0, 1), in `dtype`."""
        bits = _BITS.get(dtype, 24)
        return self.uniform(shape, bits).to(dtype) / 2**bits

    def heads(self, shape: Sequence[int], p: Any) -> Tensor:
        """True with probability `p`."""
        return self.uniform(shape, 24).to(torch.float32) / 2**24 < p

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Standard normal, in `dtype`."""
        bits = 52 if dtype == torch.float64 else 24
        return torch.special.ndtri((self.uniform(shape, bits).double() + 0.5) / 2**bits).to(dtype)


def _native_dropout(mode: FrozenDraws, x: Tensor, p: float, train: bool | None = True) -> tuple[Tensor, Tensor]:
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = mode.heads(x.shape, 1 - p)
    return x * kept * (0.0 if p == 1 else 1 / (1 - p)), kept


def _integers(mode: FrozenDraws, low: int, high: int, size: Sequence[int], **options: Any) -> Tensor:
    return (mode.uniform(size, 62) % (high - low) + low).to(options.get("dtype") or torch.int64)


def _dtype(options: dict[str, Any]) -> torch.dtype:
    return options.get("dtype") or torch.get_default_dtype()


def _like(x: Tensor, options: dict[str, Any]) -> torch.dtype:
    return options.get("dtype") or x.dtype


_ANSWERS: dict[Any, Callable[..., Any]] = {
    aten.bernoulli.p: lambda mode, x, p, **_: mode.heads(x.shape, p).to(x.dtype),
    aten.bernoulli.default: lambda mode, p, **_: mode.heads(p.shape, p).to(p.dtype),
    aten.bernoulli_.float: lambda mode, x, p=0.5, **_: x.copy_(mode.heads(x.shape, p)),
    aten.bernoulli_.Tensor: lambda mode, x, p, **_: x.copy_(mode.heads(x.shape, p)),
    aten.native_dropout.default: _native_dropout,
    aten.rand.default: lambda mode, size, **options: mode.fractions(size, _dtype(options)),
    aten.rand_like.default: lambda mode, x, **options: mode.fractions(x.shape, _like(x, options)),
    aten.uniform_.default: lambda mode, x, a=0.0, b=1.0, **_: x.copy_(a + (b - a) * mode.fractions(x.shape, x.dtype)),
    aten.randn.default: lambda mode, size, **options: mode.normal(size, _dtype(options)),
    aten.randn_like.default: lambda mode, x, **options: mode.normal(x.shape, _like(x, options)),
    aten.normal_.default: lambda mode, x, m=0.0, s=1.0, **_: x.copy_(m + s * mode.normal(x.shape, x.dtype)),
    aten.normal.float_float: lambda mode, m, s, size, **options: m + s * mode.normal(size, _dtype(options)),
    aten.normal.Tensor_float: lambda mode, m, s=1.0, **_: m + s * mode.normal(m.shape, m.dtype),
    aten.exponential_.default: lambda mode, x, rate=1.0, **_: x.copy_(
        -torch.log1p(-mode.fractions(x.shape, torch.float64)) / rate
    ),
    aten.randint.default: lambda mode, high, size, **options: _integers(mode, 0, high, size, **options),
    aten.randint.low: _integers,
}


def _dropout_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The dropout_p of a call, such as a fused attention's; None where it has none."""
    names = [argument.name for argument in func._schema.arguments]
    if "dropout_p" not in names:
        return None
    at = names.index("dropout_p")
    return args[at] if at < len(args) else kwargs.get("dropout_p", func._schema.arguments[at].default_value)


def _refusal(func: Any) -> str:
    fused = "dropout_p" in [argument.name for argument in func._schema.arguments]
    cure = (
        "a fused attention draws inside its kernel. Turn these off for the run, torch.backends.cuda.enable_flash_sdp"
        "(False), enable_mem_efficient_sdp(False) and enable_cudnn_sdp(False), or set its dropout to 0"
        if fused
        else "use dropout, rand, randn, bernoulli, uniform_, normal_, exponential_ or randint, without a generator of "
        "your own, or eval mode"
    )
    return f"the block draws random numbers by {func}, which cannot be frozen for a solve: {cure}"


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, of int64 read as unsigned."""
    for shift, factor in _ROUNDS:
        z = (z ^ _shifted(z, shift)) * _signed(factor)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """z >> by, zeros coming in."""
    return z >> by & (1 << (64 - by)) - 1


def _mixed_int(z: int) -> int:
    z &= _MASK
    for shift, factor in _ROUNDS:
        z = (z ^ z >> shift) * factor & _MASK
    return z ^ z >> 31


def _signed(z: int) -> int:
    """The int64 of the same bits."""
    z &= _MASK
    return z - 2**64 if z >> 63 else z


def _numpy_state() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    return state[1].tobytes(), *state[2:]
