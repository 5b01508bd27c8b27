// The GRU's marches as CUDA kernels: gru_forward_OPERAND_STORAGE_cCHUNKS_uUNITS, and gru_adjoint_… likewise.
#pragma once

#include "../cuda/cuda_block.cuh"
#include "gru_cells.cuh"

#define LPGPU_MARCH(KIND, OPERAND, STORAGE, CHUNKS, UNITS, CELL, OPERAND_TYPE, STORAGE_TYPE)                           \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        gru_##KIND##_##OPERAND##_##STORAGE##_c##CHUNKS##_u##UNITS(                                                     \
            const __grid_constant__ lpgpu::GruArguments<STORAGE_TYPE> arguments)                                       \
    {                                                                                                                  \
        using Sized = lpgpu::Shape<OPERAND_TYPE, 8, CHUNKS, UNITS>;                                                    \
        lpgpu::CudaBlock block;                                                                                        \
        CELL cell(arguments);                                                                                          \
        lpgpu::March<lpgpu::CudaBlock, Sized, CELL>(block, cell, arguments.extent).run();                              \
    }
