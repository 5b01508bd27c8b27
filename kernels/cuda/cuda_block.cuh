// The Block that nvcc instantiates kernels' phases with: a CUDA thread's view of its block.
//
// A phase may use of its Block: thread(), warp(), lane(); rank() and group(), the block's place in the grid; shared(),
// the block's dynamic shared memory; sync(), the barrier of the block, and sync_warp(); mma(); and words of 8 or 16
// bytes which blocks exchange, written and read as a whole, in no order to anything else. A grid's blocks have them in
// global memory; a cluster's blocks each in their own shared memory, where the others write them too.
#pragma once

#include "words.cuh"

namespace lpgpu {

// A CUDA thread's place, its barriers and its matrix unit.
struct CudaThread {
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

};

#define LPGPU_WHOLE "{ .reg .b128 whole; .reg .b64 low, high; "
#define LPGPU_MAKE_WHOLE "mov.b64 low, {%1, %2}; mov.b64 high, {%3, %4}; mov.b128 whole, {low, high}; "
#define LPGPU_SPLIT_WHOLE "mov.b128 {low, high}, whole; mov.b64 {%0, %1}, low; mov.b64 {%2, %3}, high; }"

// A block of a grid.
struct GridBlock : CudaThread {
    static constexpr bool IN_CLUSTERS = false;
    LPGPU_FUNCTION static void sync_cluster() {}

    LPGPU_FUNCTION static void publish(Word<1>* to, Word<1> word)
    {
        const uint64_t bits = word.data[0] | (uint64_t(word.stamp) << 32);
        asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(bits) : "memory");
    }
    LPGPU_FUNCTION static void publish(Word<3>* to, Word<3> word)
    {
        asm volatile(LPGPU_WHOLE LPGPU_MAKE_WHOLE "st.relaxed.gpu.global.b128 [%0], whole; }" ::"l"(to), "r"(word.data[0]),
                     "r"(word.data[1]), "r"(word.data[2]), "r"(word.stamp)
                     : "memory");
    }

    // Four words, each 32 behind the other.
    LPGPU_FUNCTION static void observe(Word<1> (&words)[4], const Word<1>* from)
    {
        LPGPU_UNROLL
        for (int i = 0; i < 4; i++) {
            uint64_t bits;
            asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(bits) : "l"(from + 32 * i) : "memory");
            words[i] = {{uint32_t(bits)}, uint32_t(bits >> 32)};
        }
    }
    LPGPU_FUNCTION static void observe(Word<3> (&words)[4], const Word<3>* from)
    {
        LPGPU_UNROLL
        for (int i = 0; i < 4; i++) {
            Word<3>& word = words[i];
            asm volatile(LPGPU_WHOLE "ld.relaxed.gpu.global.b128 whole, [%4]; " LPGPU_SPLIT_WHOLE
                         : "=r"(word.data[0]), "=r"(word.data[1]), "=r"(word.data[2]), "=r"(word.stamp)
                         : "l"(from + 32 * i)
                         : "memory");
        }
    }
};

// A block of a cluster of RANKS blocks (compute capability 9.0).
template <int RANKS>
struct ClusterBlock : CudaThread {
    static constexpr bool IN_CLUSTERS = true;

    LPGPU_FUNCTION static void sync_cluster()
    {
        asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
    }

    // To all blocks of the cluster, this one among them, each from another one on.
    template <int DATA>
    LPGPU_FUNCTION static void publish(Word<DATA>* to, Word<DATA> word)
    {
        const uint32_t here = address(to);
        LPGPU_UNROLL
        for (int i = 0; i < RANKS; i++) {
            uint32_t there;
            asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"((rank() + i) % RANKS));
            store(there, word);
        }
    }

    LPGPU_FUNCTION static void observe(Word<1> (&words)[4], const Word<1>* from)
    {
        LPGPU_UNROLL
        for (int i = 0; i < 4; i++) {
            uint64_t bits;
            asm volatile("ld.relaxed.cluster.shared::cta.b64 %0, [%1];" : "=l"(bits) : "r"(address(from + 32 * i)) : "memory");
            words[i] = {{uint32_t(bits)}, uint32_t(bits >> 32)};
        }
    }
    LPGPU_FUNCTION static void observe(Word<3> (&words)[4], const Word<3>* from)
    {
        LPGPU_UNROLL
        for (int i = 0; i < 4; i++) {
            Word<3>& word = words[i];
            asm volatile(LPGPU_WHOLE "ld.relaxed.cluster.shared::cta.b128 whole, [%4]; " LPGPU_SPLIT_WHOLE
                         : "=r"(word.data[0]), "=r"(word.data[1]), "=r"(word.data[2]), "=r"(word.stamp)
                         : "r"(address(from + 32 * i))
                         : "memory");
        }
    }

private:
    LPGPU_FUNCTION static uint32_t address(const void* shared) { return uint32_t(__cvta_generic_to_shared(shared)); }

    LPGPU_FUNCTION static void store(uint32_t there, Word<1> word)
    {
        const uint64_t bits = word.data[0] | (uint64_t(word.stamp) << 32);
        asm volatile("st.relaxed.cluster.shared::cluster.b64 [%0], %1;" ::"r"(there), "l"(bits) : "memory");
    }
    LPGPU_FUNCTION static void store(uint32_t there, Word<3> word)
    {
        asm volatile(LPGPU_WHOLE LPGPU_MAKE_WHOLE "st.relaxed.cluster.shared::cluster.b128 [%0], whole; }" ::"r"(there),
                     "r"(word.data[0]), "r"(word.data[1]), "r"(word.data[2]), "r"(word.stamp)
                     : "memory");
    }
};

}  // namespace lpgpu
