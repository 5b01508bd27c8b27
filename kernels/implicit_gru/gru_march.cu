// The GRU's marches on bf16 tensors. The sizes are those whose weights fit in registers; cuda_march.py has the same list.
#include "gru_kernels.cuh"

using Forward = lpgpu::GruForward<lpgpu::Bf16, false>;
using Adjoint = lpgpu::GruAdjoint<lpgpu::Bf16>;

#define BOTH(CHUNKS, UNITS)                                                                                            \
    LPGPU_MARCH(forward, bf16, bf16, CHUNKS, UNITS, Forward, lpgpu::Bf16Operand, lpgpu::Bf16)                          \
    LPGPU_MARCH(adjoint, bf16, bf16, CHUNKS, UNITS, Adjoint, lpgpu::Bf16Operand, lpgpu::Bf16)

BOTH(2, 8)
BOTH(2, 16)
BOTH(2, 32)
BOTH(4, 8)
BOTH(4, 16)
BOTH(4, 32)
BOTH(8, 8)
BOTH(8, 16)
