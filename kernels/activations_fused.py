"""The nonlinearities of `activations` for Triton kernels, chosen by name at compile time.

`saved` is what it is there: g(z), or z where the slope cannot be read off g(z) (silu). A NaN passes through every one.
"""

import triton
import triton.language as tl

from lpgpu.kernels.activations import SMOOTH_RELU_ETA

ETA: tl.constexpr = tl.constexpr(SMOOTH_RELU_ETA)


@triton.jit
def tanh(z, exact: tl.constexpr):
    """(1 − e)/(1 + e) with e = e^(−2|z|), which cannot overflow; off by 6e-8 at most, which 16-bit tensors do not show.

    Where `exact` asks for a small relative error: near zero, where 1 − e cancels, a continued fraction's convergent.
    """
    e = tl.exp(-2 * tl.abs(z))
    sign = tl.where(z < 0, -1.0, 1.0).to(z.dtype)
    if exact:
        t = z * z
        if z.dtype == tl.float64:
            p = 2027025 + t * (270270 + t * (6930 + 36 * t))
            q = 2027025 + t * (945945 + t * (51975 + t * (630 + t)))
        else:
            p = 945 + t * (105 + t)
            q = 945 + t * (420 + t * 15)
        near_zero = tl.abs(z) < 0.5
        a = tl.where(near_zero, z * p, sign * (1 - e)) / tl.where(near_zero, q, 1 + e)
    else:
        a = sign * ((1 - e) / (1 + e))
    return a


@triton.jit
def sigmoid(z):
    """1/(1 + e^(−z)); where that overflows it is 0, as it should be."""
    return 1 / (1 + tl.exp(-z))


@triton.jit
def value(z, activation: tl.constexpr, exact: tl.constexpr):
    """g(z); `exact`: to a rounding of z's dtype even where g(z) is small."""
    if activation == "tanh":
        a = tanh(z, exact)
    elif activation == "relu":
        a = tl.where(z < 0, 0, z)
    elif activation == "silu":
        a = z * sigmoid(z)
    elif activation == "smooth_relu":
        # x²/4η + x/2 + η/4 = (x + η)²/4η on (−η, η)
        a = tl.where(z <= -ETA, 0, tl.where(z >= ETA, z, (z + ETA) * (z + ETA) * (0.25 / ETA)))
    else:
        tl.static_assert(activation == "identity")
        a = z
    return a


@triton.jit
def saved_of(z, a, activation: tl.constexpr):
    """What the pull-back through a = g(z) wants."""
    return z if activation == "silu" else a


@triton.jit
def value_of_saved(saved, activation: tl.constexpr):
    """g(z)."""
    return value(saved, activation, True) if activation == "silu" else saved


@triton.jit
def pull_back(d, saved, activation: tl.constexpr):
    """g′(z) ⊙ d."""
    if activation == "tanh":
        d = d * (1 - saved * saved)
    elif activation == "relu":
        d = tl.where(saved <= 0, 0, d)
    elif activation == "silu":
        s = sigmoid(saved)
        d = d * s * (1 + saved * (1 - s))
    elif activation == "smooth_relu":
        # a = (x + η)²/4η has the slope √(a/η), which reaches 1 at a = η
        d = d * tl.where(saved >= ETA, 1, tl.sqrt(saved * (1 / ETA)))
    else:
        tl.static_assert(activation == "identity")
    return d
