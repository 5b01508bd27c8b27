// The GRU's marches on fp32 tensors, their products in the precisions of kernels/precision.py but "ieee".
#include "gru_kernels.cuh"

using Rounded = lpgpu::GruForward<float, false>;
using Accurate = lpgpu::GruForward<float, true>;
using Adjoint = lpgpu::GruAdjoint<float>;

#define BF16(CHUNKS, UNITS)                                                                                            \
    LPGPU_MARCH(forward, bf16, fp32, CHUNKS, UNITS, Rounded, lpgpu::Bf16Operand, float)                                \
    LPGPU_MARCH(adjoint, bf16, fp32, CHUNKS, UNITS, Adjoint, lpgpu::Bf16Operand, float)
#define TF32(CHUNKS, UNITS)                                                                                            \
    LPGPU_MARCH(forward, tf32, fp32, CHUNKS, UNITS, Accurate, lpgpu::Tf32Operand, float)                               \
    LPGPU_MARCH(adjoint, tf32, fp32, CHUNKS, UNITS, Adjoint, lpgpu::Tf32Operand, float)
#define TF32X3(CHUNKS, UNITS)                                                                                          \
    LPGPU_MARCH(forward, tf32x3, fp32, CHUNKS, UNITS, Accurate, lpgpu::Tf32x3Operand, float)                           \
    LPGPU_MARCH(adjoint, tf32x3, fp32, CHUNKS, UNITS, Adjoint, lpgpu::Tf32x3Operand, float)

BF16(2, 8)
BF16(2, 16)
BF16(4, 8)
BF16(4, 16)
BF16(8, 8)
BF16(8, 16)
TF32(4, 8)
TF32(4, 16)
TF32(8, 8)
TF32(8, 16)
TF32(16, 8)
TF32X3(4, 8)
TF32X3(4, 16)
TF32X3(8, 8)
