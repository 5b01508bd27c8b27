// What blocks exchange: words of data with a stamp, written and read as a whole.
//
// A reader that finds the stamp it waits for has the data too: no fence, no flag of its own, one trip through the
// second-level cache. (NCCL's LL protocol is the same idea.)
#pragma once

#include "operands.cuh"

namespace lpgpu {

template <int DATA>
struct Word;
template <>
struct alignas(8) Word<1> {
    uint32_t data[1], stamp;
};
template <>
struct alignas(16) Word<3> {
    uint32_t data[3], stamp;
};

}  // namespace lpgpu
