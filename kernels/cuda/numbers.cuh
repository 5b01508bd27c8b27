// Numbers as they are stored, as they enter the matrix unit, and two neighbouring ones at once.
//
// Compiles with nvcc and, for the tests, with a plain C++ compiler.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define LPGPU_FUNCTION __device__ __forceinline__
#define LPGPU_UNROLL _Pragma("unroll")
#define LPGPU_PRAGMA(TEXT) _Pragma(#TEXT)
#define LPGPU_UNROLL_BY(TIMES) LPGPU_PRAGMA(unroll TIMES)
#else
#define LPGPU_FUNCTION inline
#define LPGPU_UNROLL
#define LPGPU_UNROLL_BY(TIMES)
#endif

namespace lpgpu {

struct alignas(8) Pair {  // aligned: read and written at once
    float x, y;
};

// bfloat16: the upper half of a float.
struct Bf16 {
    uint16_t bits;
};

LPGPU_FUNCTION uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

LPGPU_FUNCTION float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Rounded to nearest, ties to even; a NaN stays one.
LPGPU_FUNCTION uint32_t bf16_bits(float value)
{
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// Two bf16 in one register, x in the lower half.
LPGPU_FUNCTION uint32_t packed_bf16(Pair pair)
{
#if defined(__CUDA_ARCH__)
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(pair.y), "f"(pair.x));
    return packed;
#else
    return bf16_bits(pair.x) | (bf16_bits(pair.y) << 16);
#endif
}

LPGPU_FUNCTION Pair unpacked_bf16(uint32_t packed) { return {float_of(packed << 16), float_of(packed & 0xffff0000u)}; }

// Rounded to the 10 bits that a TF32 product takes, ties away from zero.
LPGPU_FUNCTION uint32_t tf32_bits(float value)
{
#if defined(__CUDA_ARCH__)
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
#else
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
    return (bits + 0x1000u) & 0xffffe000u;
#endif
}

// Memory that is read once: it should not push other things out of the caches.
template <class T>
LPGPU_FUNCTION T streamed(const T* address)
{
#if defined(__CUDA_ARCH__)
    return __ldcs(address);
#else
    return *address;
#endif
}

LPGPU_FUNCTION double loaded(const double* address) { return *address; }
LPGPU_FUNCTION float loaded(const float* address) { return *address; }
LPGPU_FUNCTION float loaded(const Bf16* address) { return float_of(uint32_t(address->bits) << 16); }

// Two neighbours as they are stored, the first at an even offset of a tensor whose start is aligned. They become numbers
// where they are used: a load that is converted at once is waited for at once.
template <class Storage>
struct Stored;
template <>
struct Stored<Bf16> {
    uint32_t bits;
    LPGPU_FUNCTION static Stored at(const Bf16* address) { return {streamed(reinterpret_cast<const uint32_t*>(address))}; }
    LPGPU_FUNCTION Pair pair() const { return unpacked_bf16(bits); }
};
template <>
struct Stored<float> {
    Pair values;
    LPGPU_FUNCTION static Stored at(const float* address)
    {
#if defined(__CUDA_ARCH__)
        const float2 values = __ldcs(reinterpret_cast<const float2*>(address));
        return {{values.x, values.y}};
#else
        return {*reinterpret_cast<const Pair*>(address)};
#endif
    }
    LPGPU_FUNCTION Pair pair() const { return values; }
};

LPGPU_FUNCTION void store(double* address, double value) { *address = value; }
LPGPU_FUNCTION void store(float* address, float value) { *address = value; }
LPGPU_FUNCTION void store(Bf16* address, float value) { address->bits = uint16_t(packed_bf16({value, 0.0f})); }

LPGPU_FUNCTION void store_pair(float* address, Pair pair) { *reinterpret_cast<Pair*>(address) = pair; }
LPGPU_FUNCTION void store_pair(Bf16* address, Pair pair) { *reinterpret_cast<uint32_t*>(address) = packed_bf16(pair); }

// σ and tanh. `ACCURATE`: to fp32's rounding, relatively; else off by 1e-6 at most, enough for operands of 16 bits.
template <bool ACCURATE>
LPGPU_FUNCTION float sigmoid(float x)
{
#if defined(__CUDA_ARCH__)
    if constexpr (!ACCURATE) return __fdividef(1.0f, 1.0f + __expf(-x));
    return 1.0f / (1.0f + expf(-x));
#else
    return 1.0f / (1.0f + std::exp(-x));
#endif
}

template <bool ACCURATE>
LPGPU_FUNCTION float hyperbolic_tangent(float x)
{
    if constexpr (ACCURATE) return tanhf(x);
    return 2.0f * sigmoid<false>(2.0f * x) - 1.0f;
}

}  // namespace lpgpu
