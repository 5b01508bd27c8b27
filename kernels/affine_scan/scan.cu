// The affine scan as CUDA kernels: affine_scan_STORAGE, of blocks of eight warps that take eight steps each at a time.
#include "../cuda/cuda_block.cuh"
#include "scan.cuh"

#define SCAN(NAME, STORAGE, NUMBER)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        affine_scan_##NAME(const __grid_constant__ lpgpu::ScanArguments<STORAGE> arguments)                            \
    {                                                                                                                  \
        lpgpu::GridBlock block;                                                                                        \
        lpgpu::AffineScan<lpgpu::GridBlock, STORAGE, NUMBER, 8, 8>(block, arguments).run();                            \
    }

SCAN(bf16, lpgpu::Bf16, float)
SCAN(fp32, float, float)
SCAN(fp64, double, double)
