"""The dense ODE step, Φ_k(u) = u + Δt g(W_k u + b_k), on many layers at once.

Shapes: K layers, B batch rows, H width. `u_KBH`, `w_KHH`, `b_KH` (None: no bias). Slices of larger tensors along K are
taken as they are, without a copy. `empty_states` makes tensors in the memory order this operation is fastest in.
`advance` returns what its adjoint needs to know of it, [K, B, H].
"""

from lpgpu.kernels.dense_step.reference import advance, diagonal, empty_states, kept, parameter_gradient, vjp

__all__ = ["advance", "diagonal", "empty_states", "kept", "parameter_gradient", "vjp"]
