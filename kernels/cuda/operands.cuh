// How fp32 numbers enter the matrix unit: mma.sync with 16 rows, 8 columns and a chunk of 16 (bf16) or 8 (tf32) units.
//
// Of a product A B with A [16, CHUNK] and B [CHUNK, 8], lane l of a warp holds, with g = l / 4 and t = l % 4:
//     A in four registers: register i the units at t of half i / 2 of the chunk, in row g + 8 (i % 2)
//     B in two:            register i the units at t of half i, in column g
//     the sums in four:    sum i is row g + 8 (i / 2), column 2 t + i % 2
// A register holds PER_REGISTER units side by side.
#pragma once

#include "numbers.cuh"

namespace lpgpu {

// Operands rounded to bf16; one product.
struct Bf16Operand {
    static constexpr int CHUNK = 16, PER_REGISTER = 2, WEIGHT_REGISTERS = 2;
    struct Unit {  // of the matrix unit: what the host's Block must know of the encoding
        static constexpr int CHUNK = 16, PER_REGISTER = 2;
        static float value(uint32_t bits, int i) { return i == 0 ? unpacked_bf16(bits).x : unpacked_bf16(bits).y; }
    };

    LPGPU_FUNCTION static uint32_t message(Pair pair, int) { return packed_bf16(pair); }

    // Weights b of the units at t in each half of a chunk, in one column.
    LPGPU_FUNCTION static void hold(uint32_t (&held)[2], const float (&b)[2][2])
    {
        LPGPU_UNROLL
        for (int half = 0; half < 2; half++) held[half] = packed_bf16({b[half][0], b[half][1]});
    }

    template <class Block>
    LPGPU_FUNCTION static void multiply_add(Block& block, float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
    {
        block.template mma<Unit>(sum, a, b);
    }
};

struct Tf32Unit {
    static constexpr int CHUNK = 8, PER_REGISTER = 1;
    static float value(uint32_t bits, int) { return float_of(bits & 0xffffe000u); }
};

// Operands rounded to tf32; one product.
struct Tf32Operand {
    static constexpr int CHUNK = 8, PER_REGISTER = 1, WEIGHT_REGISTERS = 2;

    LPGPU_FUNCTION static uint32_t message(Pair pair, int i) { return tf32_bits(i == 0 ? pair.x : pair.y); }

    LPGPU_FUNCTION static void hold(uint32_t (&held)[2], const float (&b)[2][2])
    {
        LPGPU_UNROLL
        for (int half = 0; half < 2; half++) held[half] = tf32_bits(b[half][0]);
    }

    template <class Block>
    LPGPU_FUNCTION static void multiply_add(Block& block, float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
    {
        block.template mma<Tf32Unit>(sum, a, b);
    }
};

// Each operand as the sum of two tf32, three of the four products: as accurate as fp32 to rounding.
struct Tf32x3Operand {
    static constexpr int CHUNK = 8, PER_REGISTER = 1, WEIGHT_REGISTERS = 4;

    LPGPU_FUNCTION static uint32_t message(Pair pair, int i) { return bits_of(i == 0 ? pair.x : pair.y); }

    LPGPU_FUNCTION static void hold(uint32_t (&held)[4], const float (&b)[2][2])
    {
        LPGPU_UNROLL
        for (int half = 0; half < 2; half++) split(b[half][0], held[half], held[2 + half]);
    }

    template <class Block>
    LPGPU_FUNCTION static void multiply_add(Block& block, float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[4])
    {
        uint32_t large[4], small[4];
        LPGPU_UNROLL
        for (int i = 0; i < 4; i++) split(float_of(a[i]), large[i], small[i]);
        const uint32_t b_large[2] = {b[0], b[1]}, b_small[2] = {b[2], b[3]};
        block.template mma<Tf32Unit>(sum, small, b_large);
        block.template mma<Tf32Unit>(sum, large, b_small);
        block.template mma<Tf32Unit>(sum, large, b_large);
    }

private:
    LPGPU_FUNCTION static void split(float value, uint32_t& large, uint32_t& small)
    {
        large = tf32_bits(value);
        small = tf32_bits(value - float_of(large));
    }
};

}  // namespace lpgpu
