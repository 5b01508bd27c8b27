// Tensors of the test's fp32 numbers, as a kernel stores them, and back.
#pragma once

#include <vector>

#include "../../../kernels/cuda/numbers.cuh"

namespace lpgpu {

inline void convert(float from, float& to) { to = from; }
inline void convert(float from, Bf16& to) { to.bits = bf16_bits(from); }

template <class Storage>
std::vector<Storage> stored(const std::vector<float>& values)
{
    std::vector<Storage> converted(values.size());
    for (size_t i = 0; i < values.size(); i++) convert(values[i], converted[i]);
    return converted;
}

template <class Storage>
std::vector<float> numbers(const std::vector<Storage>& tensor)
{
    std::vector<float> values(tensor.size());
    for (size_t i = 0; i < tensor.size(); i++) values[i] = loaded(&tensor[i]);
    return values;
}

}  // namespace lpgpu
