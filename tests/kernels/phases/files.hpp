// Tensors that a test hands to a program in a file, and takes from its end.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

inline std::vector<float> read(std::FILE* file, size_t count)
{
    std::vector<float> values(count);
    if (std::fread(values.data(), sizeof(float), count, file) != count) std::abort();
    return values;
}

inline void append(std::FILE* file, const std::vector<float>& values)
{
    std::fseek(file, 0, SEEK_END);
    if (std::fwrite(values.data(), sizeof(float), values.size(), file) != values.size()) std::abort();
}
