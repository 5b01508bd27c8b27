// The GRU's marches on bf16 tensors. The sizes are those whose weights fit in registers; cuda_march.py has the same list.
#include "gru_kernels.cuh"

using Forward = lpgpu::GruForward<lpgpu::Bf16, false>;
using Adjoint = lpgpu::GruAdjoint<lpgpu::Bf16>;

#define GRID(...)                                                                                                      \
    LPGPU_GRID_MARCH(gru_forward_bf16_bf16, Forward, lpgpu::Bf16Operand, __VA_ARGS__)                                  \
    LPGPU_GRID_MARCH(gru_adjoint_bf16_bf16, Adjoint, lpgpu::Bf16Operand, __VA_ARGS__)
#define CLUSTER(...)                                                                                                   \
    LPGPU_CLUSTER_MARCH(gru_forward_bf16_bf16, Forward, lpgpu::Bf16Operand, __VA_ARGS__)                               \
    LPGPU_CLUSTER_MARCH(gru_adjoint_bf16_bf16, Adjoint, lpgpu::Bf16Operand, __VA_ARGS__)

GRID(8, 2, 8)
GRID(8, 2, 16)
GRID(8, 2, 32)
GRID(8, 4, 8)
GRID(8, 4, 16)
GRID(8, 4, 32)
GRID(8, 8, 8)
GRID(8, 8, 16)
CLUSTER(4, 1, 8, 8)
CLUSTER(4, 2, 8, 16)
