// The GRU's marches on fp32 tensors, their products in the precisions of kernels/precision.py but "ieee".
#include "gru_kernels.cuh"

using Rounded = lpgpu::GruForward<float, false>;
using Accurate = lpgpu::GruForward<float, true>;
using Adjoint = lpgpu::GruAdjoint<float>;

#define BF16_GRID(...)                                                                                                 \
    LPGPU_GRID_MARCH(gru_forward_bf16_fp32, Rounded, lpgpu::Bf16Operand, __VA_ARGS__)                                  \
    LPGPU_GRID_MARCH(gru_adjoint_bf16_fp32, Adjoint, lpgpu::Bf16Operand, __VA_ARGS__)
#define TF32_GRID(...)                                                                                                 \
    LPGPU_GRID_MARCH(gru_forward_tf32_fp32, Accurate, lpgpu::Tf32Operand, __VA_ARGS__)                                 \
    LPGPU_GRID_MARCH(gru_adjoint_tf32_fp32, Adjoint, lpgpu::Tf32Operand, __VA_ARGS__)
#define TF32X3_GRID(...)                                                                                               \
    LPGPU_GRID_MARCH(gru_forward_tf32x3_fp32, Accurate, lpgpu::Tf32x3Operand, __VA_ARGS__)                             \
    LPGPU_GRID_MARCH(gru_adjoint_tf32x3_fp32, Adjoint, lpgpu::Tf32x3Operand, __VA_ARGS__)

BF16_GRID(8, 2, 8)
BF16_GRID(8, 2, 16)
BF16_GRID(8, 4, 8)
BF16_GRID(8, 4, 16)
BF16_GRID(8, 8, 8)
BF16_GRID(8, 8, 16)
TF32_GRID(8, 4, 8)
TF32_GRID(8, 4, 16)
TF32_GRID(8, 8, 8)
TF32_GRID(8, 8, 16)
TF32_GRID(8, 16, 8)
TF32X3_GRID(8, 4, 8)
TF32X3_GRID(8, 4, 16)
TF32X3_GRID(8, 8, 8)
