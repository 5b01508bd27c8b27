// Sweeps of convolutions on the CPU: conv_sweep KIND OPERAND FILE [without-barriers] reads tensors from FILE and writes
// the result behind them; conv_sweep layout prints sizeof(ConvArguments) and the shared memory of the GPU's blocks: 8
// channels of 28 × 28 pixels and 64 of 14 × 14 in bf16, 32 of 14 × 14 in fp32.
//
// FILE: int32 channels, height, width, images, intervals, steps, last_steps, convolutions, activation, has_bias,
// has_terms; float dt; then fp32 source [intervals, images, pixels, C]; of each convolution w [intervals, steps, 9, C in,
// C out], b [intervals, steps, C] (with a bias), saved [intervals, steps, images, pixels, C] (adjoint); g, delta, anchors
// like saved (with terms). The result: target, likewise.
#include "../../../kernels/conv_step/conv_sweep.cuh"
#include "../../../kernels/cuda/host_block.hpp"
#include "files.hpp"
#include "stored.hpp"

using namespace lpgpu;

namespace {

struct Sizes {
    int channels, height, width, images, intervals, steps, last_steps, convolutions, activation, has_bias, has_terms;
    float dt;
};

// What a launch on the GPU does, for one kind of cell, operand and number of channels.
template <class Cell, class Operand, int CHANNELS, int PLACES>
void run(const Sizes& n, bool adjoint, std::FILE* file)
{
    using Storage = typename Cell::Storage;
    using Sized = ConvShape<Operand, CHANNELS, 2, PLACES>;
    const int64_t image = int64_t(n.height) * n.width * CHANNELS, state = n.images * image, layers = int64_t(n.intervals) * n.steps;
    const auto swept = [&](const std::vector<Storage>& tensor, int64_t of_layer, int64_t row) {
        return Swept<const Storage>{tensor.empty() ? nullptr : tensor.data(), n.steps * of_layer, of_layer, row};
    };
    const auto source = stored<Storage>(read(file, n.intervals * state));
    std::vector<Storage> w[2], b[2], saved[2];
    ConvArguments<Storage> arguments{};
    for (int i = 0; i < n.convolutions; i++) {
        w[i] = stored<Storage>(read(file, layers * 9 * CHANNELS * CHANNELS));
        b[i] = stored<Storage>(read(file, n.has_bias ? layers * CHANNELS : 0));
        saved[i] = stored<Storage>(read(file, adjoint ? layers * state : 0));
        arguments.filters[i] = {swept(w[i], 9 * CHANNELS * CHANNELS, 0), swept(b[i], CHANNELS, 0), swept(saved[i], state, image),
                                1, CHANNELS, CHANNELS * CHANNELS};
    }
    const auto g = stored<Storage>(read(file, n.has_terms ? layers * state : 0));
    const auto delta = stored<Storage>(read(file, n.has_terms ? layers * state : 0));
    const auto anchors = stored<Storage>(read(file, n.has_terms ? layers * state : 0));
    std::vector<Storage> target = stored<Storage>(std::vector<float>(layers * state, NAN));

    arguments.height = n.height;
    arguments.width = n.width;
    arguments.convolutions = n.convolutions;
    arguments.activation = n.activation;
    arguments.rows = {n.intervals * n.images, n.images, n.steps, n.last_steps};
    arguments.source = {source.data(), state, 0, image};
    arguments.target = {target.data(), n.steps * state, state, image};
    arguments.terms = {swept(g, state, image), swept(delta, state, image), swept(anchors, state, image)};
    arguments.dt = n.dt;
    launch<false>(n.intervals * n.images, 1, Sized::THREADS, Sized::shared_bytes(n.height, n.width), [&](HostBlock<false>& block) {
        ConvSweep<HostBlock<false>, Sized, Cell>(block, arguments).run();
    });
    append(file, numbers(target));
}

template <class Operand, class Storage, bool ACCURATE, int CHANNELS, int PLACES>
void run(const Sizes& sizes, bool adjoint, std::FILE* file)
{
    if (adjoint)
        run<ConvAdjoint<Storage, ACCURATE>, Operand, CHANNELS, PLACES>(sizes, adjoint, file);
    else
        run<ConvForward<Storage, ACCURATE>, Operand, CHANNELS, PLACES>(sizes, adjoint, file);
}

}  // namespace

int main(int count, char** arguments)
{
    if (count == 2) {
        const int sizes[] = {ConvShape<Bf16Operand, 8, 8>::shared_bytes(28, 28), ConvShape<Bf16Operand, 64, 8>::shared_bytes(14, 14),
                             ConvShape<Tf32x3Operand, 32, 8>::shared_bytes(14, 14)};
        std::printf("%zu %d %d %d\n", sizeof(ConvArguments<Bf16>), sizes[0], sizes[1], sizes[2]);
        return 0;
    }
    if (count < 4) return 2;
    has_barriers = count == 4;
    const bool adjoint = std::string(arguments[1]) == "adjoint", bf16 = std::string(arguments[2]) == "bf16";
    std::FILE* file = std::fopen(arguments[3], "r+b");
    Sizes n;
    if (!file || std::fread(&n, sizeof n, 1, file) != 1) return 2;
    if (bf16 && n.channels == 4)
        run<Bf16Operand, Bf16, false, 4, 2>(n, adjoint, file);
    else if (bf16 && n.channels == 8)
        run<Bf16Operand, Bf16, false, 8, 1>(n, adjoint, file);
    else if (bf16 && n.channels == 16)
        run<Bf16Operand, Bf16, false, 16, 2>(n, adjoint, file);
    else if (!bf16 && n.channels == 4)
        run<Tf32x3Operand, float, true, 4, 1>(n, adjoint, file);
    else if (!bf16 && n.channels == 8)
        run<Tf32x3Operand, float, true, 8, 2>(n, adjoint, file);
    else
        return 2;
    std::fclose(file);
}
