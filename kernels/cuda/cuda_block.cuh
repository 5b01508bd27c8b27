// The Block that nvcc instantiates kernels' phases with: a CUDA thread's view of its block.
//
// A phase may use of its Block: thread(), warp(), lane(); rank() and group(), the block's place in the grid; shared(),
// the block's dynamic shared memory; sync(), the barrier of the block, and sync_warp(); mma(); and words of 8 or 16
// bytes in global memory which blocks exchange, written and read at once as a whole, in no order to anything else.
#pragma once

#include "words.cuh"

namespace lpgpu {

struct CudaBlock {
    LPGPU_FUNCTION static int thread() { return threadIdx.x; }
    LPGPU_FUNCTION static int warp() { return threadIdx.x / 32; }
    LPGPU_FUNCTION static int lane() { return threadIdx.x % 32; }
    LPGPU_FUNCTION static int rank() { return blockIdx.x; }
    LPGPU_FUNCTION static int group() { return blockIdx.y; }
    LPGPU_FUNCTION static int groups() { return gridDim.y; }
    LPGPU_FUNCTION static void sync() { __syncthreads(); }
    LPGPU_FUNCTION static void sync_warp() { __syncwarp(); }

    // A phase that has looked in vain so often stops the kernel with an error instead of looking for ever.
    LPGPU_FUNCTION static void pause(int looks)
    {
        if (looks > 1 << 24) __trap();
    }

    LPGPU_FUNCTION static float* shared()
    {
        extern __shared__ __align__(16) float memory[];
        return memory;
    }

    template <class Unit>
    LPGPU_FUNCTION static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
    {
        if constexpr (Unit::CHUNK == 16) {
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
        } else {
            asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
        }
    }

    LPGPU_FUNCTION static void publish(Word<1>* address, Word<1> word)
    {
        const uint64_t bits = word.data[0] | (uint64_t(word.stamp) << 32);
        asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(address), "l"(bits) : "memory");
    }
    LPGPU_FUNCTION static void publish(Word<3>* address, Word<3> word)
    {
        asm volatile("{\n .reg .b128 whole;\n .reg .b64 low, high;\n mov.b64 low, {%1, %2};\n mov.b64 high, {%3, %4};\n"
                     " mov.b128 whole, {low, high};\n st.relaxed.gpu.global.b128 [%0], whole;\n}" ::"l"(address),
                     "r"(word.data[0]), "r"(word.data[1]), "r"(word.data[2]), "r"(word.stamp)
                     : "memory");
    }

    // Four neighbouring words.
    LPGPU_FUNCTION static void observe(Word<1> (&words)[4], const Word<1>* address)
    {
        LPGPU_UNROLL
        for (int i = 0; i < 4; i += 2) {
            uint64_t first, second;
            asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                         : "=l"(first), "=l"(second)
                         : "l"(address + i)
                         : "memory");
            words[i] = {{uint32_t(first)}, uint32_t(first >> 32)};
            words[i + 1] = {{uint32_t(second)}, uint32_t(second >> 32)};
        }
    }
    LPGPU_FUNCTION static void observe(Word<3> (&words)[4], const Word<3>* address)
    {
        LPGPU_UNROLL
        for (int i = 0; i < 4; i++) {
            Word<3>& word = words[i];
            asm volatile("{\n .reg .b128 whole;\n .reg .b64 low, high;\n ld.relaxed.gpu.global.b128 whole, [%4];\n"
                         " mov.b128 {low, high}, whole;\n mov.b64 {%0, %1}, low;\n mov.b64 {%2, %3}, high;\n}"
                         : "=r"(word.data[0]), "=r"(word.data[1]), "=r"(word.data[2]), "=r"(word.stamp)
                         : "l"(address + i)
                         : "memory");
        }
    }
};

}  // namespace lpgpu
