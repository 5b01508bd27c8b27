// Sweeps of convolutions as CUDA kernels, conv_KIND_OPERAND_STORAGE_cCHANNELS, of blocks of eight warps; cuda_sweep.py
// has the same sizes.
#include "../cuda/cuda_block.cuh"
#include "conv_sweep.cuh"

#define CONV_SWEEP(NAME, CELL, OPERAND, CHANNELS)                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        NAME##_c##CHANNELS(const __grid_constant__ lpgpu::ConvArguments<CELL::Storage> arguments)                      \
    {                                                                                                                  \
        lpgpu::GridBlock block;                                                                                        \
        lpgpu::ConvSweep<lpgpu::GridBlock, lpgpu::ConvShape<OPERAND, CHANNELS, 8>, CELL>(block, arguments).run();      \
    }

using ForwardBf16 = lpgpu::ConvForward<lpgpu::Bf16, false>;
using AdjointBf16 = lpgpu::ConvAdjoint<lpgpu::Bf16, false>;
using ForwardFp32 = lpgpu::ConvForward<float, true>;
using AdjointFp32 = lpgpu::ConvAdjoint<float, true>;

#define BF16(CHANNELS)                                                                                                 \
    CONV_SWEEP(conv_forward_bf16_bf16, ForwardBf16, lpgpu::Bf16Operand, CHANNELS)                                      \
    CONV_SWEEP(conv_adjoint_bf16_bf16, AdjointBf16, lpgpu::Bf16Operand, CHANNELS)
#define TF32X3(CHANNELS)                                                                                               \
    CONV_SWEEP(conv_forward_tf32x3_fp32, ForwardFp32, lpgpu::Tf32x3Operand, CHANNELS)                                  \
    CONV_SWEEP(conv_adjoint_tf32x3_fp32, AdjointFp32, lpgpu::Tf32x3Operand, CHANNELS)

BF16(4)
BF16(8)
BF16(16)
BF16(32)
BF16(64)
TF32X3(4)
TF32X3(8)
TF32X3(16)
TF32X3(32)
