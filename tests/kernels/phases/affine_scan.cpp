// The affine scan on the CPU: affine_scan FILE [without-barriers] reads tensors from FILE and writes the result behind
// them; affine_scan layout prints sizeof(ScanArguments) and the shared memory of the GPU's blocks in fp32 and fp64.
//
// FILE: int32 columns, intervals, steps, parts, has_decay; then fp32 v [intervals, steps + 1, columns], phi, anchors and
// (with a decay) decay [intervals, steps, columns]. The result: v.
#include "../../../kernels/affine_scan/scan.cuh"
#include "../../../kernels/cuda/host_block.hpp"
#include "files.hpp"

using namespace lpgpu;

int main(int count, char** arguments)
{
    using OnGpu = AffineScan<HostBlock<false>, float, float, 8, 8>;
    using OnGpuInFp64 = AffineScan<HostBlock<false>, double, double, 8, 8>;
    if (count == 2 && std::string(arguments[1]) == "layout") {
        std::printf("%zu %d %d\n", sizeof(ScanArguments<float>), OnGpu::SHARED_BYTES, OnGpuInFp64::SHARED_BYTES);
        return 0;
    }
    if (count < 2) return 2;
    has_barriers = count == 2;
    std::FILE* file = std::fopen(arguments[1], "r+b");
    struct {
        int columns, intervals, steps, parts, has_decay;
    } n;
    if (!file || std::fread(&n, sizeof n, 1, file) != 1) return 2;
    const int64_t marched = int64_t(n.intervals) * n.steps * n.columns;
    std::vector<float> v = read(file, marched + int64_t(n.intervals) * n.columns);
    const std::vector<float> phi = read(file, marched), anchors = read(file, marched);
    const std::vector<float> decay = read(file, n.has_decay ? marched : 0);

    const int64_t of_interval = int64_t(n.steps) * n.columns;
    const int tiles = (n.columns + 31) / 32;
    std::vector<Word<3>> words(size_t(n.intervals) * tiles * 2 * ((n.parts + 3) / 4) * 128);
    const auto stepped = [&](const std::vector<float>& tensor) {
        return Stepped<const float>{tensor.empty() ? nullptr : tensor.data(), of_interval, n.columns};
    };
    const ScanArguments<float> scan{
        n.columns, n.steps, tiles, n.parts, words.data(), {v.data(), of_interval + n.columns, n.columns},
        stepped(phi), stepped(anchors), stepped(decay),
    };
    using Scan = AffineScan<HostBlock<false>, float, float, 2, 2>;
    launch<false>(tiles * n.parts, n.intervals, 64, Scan::SHARED_BYTES, [&](HostBlock<false>& block) { Scan(block, scan).run(); });
    append(file, v);
    std::fclose(file);
}
