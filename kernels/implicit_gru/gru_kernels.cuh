// The GRU's marches as CUDA kernels, gru_KIND_OPERAND_STORAGE_wWARPS_cCHUNKS_uUNITS: forward ones, and adjoint ones; in
// a grid, or in clusters of RANKS blocks with a name that ends in _rRANKS.
#pragma once

#include "../cuda/cuda_block.cuh"
#include "gru_cells.cuh"

#define LPGPU_MARCH(NAME, ATTRIBUTES, BLOCK, CELL, OPERAND, WARPS, CHUNKS, UNITS)                                      \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) ATTRIBUTES NAME(                                       \
        const __grid_constant__ lpgpu::GruArguments<CELL::Storage> arguments)                                          \
    {                                                                                                                  \
        BLOCK block;                                                                                                   \
        CELL cell(arguments);                                                                                          \
        lpgpu::March<BLOCK, lpgpu::Shape<OPERAND, WARPS, CHUNKS, UNITS>, CELL>(block, cell, arguments.extent).run();   \
    }

#define LPGPU_GRID_MARCH(NAME, CELL, OPERAND, WARPS, CHUNKS, UNITS)                                                    \
    LPGPU_MARCH(NAME##_w##WARPS##_c##CHUNKS##_u##UNITS, , lpgpu::GridBlock, CELL, OPERAND, WARPS, CHUNKS, UNITS)

#if __CUDA_ARCH__ < 900 && defined(__CUDA_ARCH__)
#define LPGPU_CLUSTER_MARCH(NAME, CELL, OPERAND, WARPS, CHUNKS, UNITS, RANKS)
#else
#define LPGPU_CLUSTER_MARCH(NAME, CELL, OPERAND, WARPS, CHUNKS, UNITS, RANKS)                                          \
    LPGPU_MARCH(NAME##_w##WARPS##_c##CHUNKS##_u##UNITS##_r##RANKS, __cluster_dims__(RANKS, 1, 1),                      \
                lpgpu::ClusterBlock<RANKS>, CELL, OPERAND, WARPS, CHUNKS, UNITS)
#endif
