"""The convolutional ODE step on many layers at once: one or two 3×3 convolutions, zero padded.

One: Φ_k(u) = u + Δt g(K_k ∗ u + b_k). Two: Φ_k(u) = u + Δt g(K²_k ∗ g(K¹_k ∗ u + b¹_k) + b²_k).
Shapes: K layers, B images, C channels, Y×X pixels. `u_KBCYX`; a convolution has `w_KCC33` and `b_KC` (or None).
`advance` can return what its adjoint needs to know of it: for each layer, a tensor [B, C, Y, X] of each convolution.
"""

from lpgpu.kernels.conv_step.reference import Kept, Kernel, advance, kept, parameter_gradient, vjp

__all__ = ["Kept", "Kernel", "advance", "kept", "parameter_gradient", "vjp"]
