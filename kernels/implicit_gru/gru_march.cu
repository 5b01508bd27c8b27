// The GRU's marches as CUDA kernels: gru_forward_OPERAND_STORAGE_cCHUNKS_uUNITS, and gru_adjoint_… likewise.
//
// Sizes are those whose weights fit in registers (resources.json of the tests); cuda_march.py chooses among them.
#include "../cuda/cuda_block.cuh"
#include "gru_cells.cuh"

using namespace lpgpu;

#define MARCH(NAME, CELL, STORAGE, OPERAND, CHUNKS, UNITS)                                                              \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME##_c##CHUNKS##_u##UNITS(                                  \
        const __grid_constant__ GruArguments<STORAGE> arguments)                                                       \
    {                                                                                                                  \
        CudaBlock block;                                                                                               \
        CELL cell(arguments);                                                                                          \
        March<CudaBlock, Shape<OPERAND, 8, CHUNKS, UNITS>, CELL>(block, cell, arguments.extent).run();                 \
    }

#define BF16_SIZES(NAME, CELL, STORAGE)                                                                                \
    MARCH(NAME, CELL, STORAGE, Bf16Operand, 2, 8)                                                                      \
    MARCH(NAME, CELL, STORAGE, Bf16Operand, 2, 16)                                                                     \
    MARCH(NAME, CELL, STORAGE, Bf16Operand, 2, 32)                                                                     \
    MARCH(NAME, CELL, STORAGE, Bf16Operand, 4, 8)                                                                      \
    MARCH(NAME, CELL, STORAGE, Bf16Operand, 4, 16)                                                                     \
    MARCH(NAME, CELL, STORAGE, Bf16Operand, 4, 32)                                                                     \
    MARCH(NAME, CELL, STORAGE, Bf16Operand, 8, 8)                                                                      \
    MARCH(NAME, CELL, STORAGE, Bf16Operand, 8, 16)

using ForwardBf16 = GruForward<Bf16, false>;
BF16_SIZES(gru_forward_bf16_bf16, ForwardBf16, Bf16)
BF16_SIZES(gru_adjoint_bf16_bf16, GruAdjoint<Bf16>, Bf16)
