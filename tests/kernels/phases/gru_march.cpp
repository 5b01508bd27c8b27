// The GRU's marches on the CPU: gru_march KIND OPERAND FILE [without-barriers] reads tensors from FILE and writes the
// result behind them; gru_march layout prints sizeof(GruArguments) and the shared
// memory of the GPU's blocks with two tiles of four chunks: forward in a grid, adjoint in a cluster.
//
// FILE: int32 width, intervals, batch, steps, last_steps, groups, implicit, has_bias, has_terms, in_clusters; float dt;
// then fp32
// source [intervals, B, H], x or c [intervals, steps, B, 3H], a [.., H] (adjoint), w [3H, H], b [3H] (with a bias),
// g, delta, anchors [intervals, steps, B, H] (with terms). The result: target [intervals, steps, B, H].
#include "../../../kernels/cuda/host_block.hpp"
#include "../../../kernels/implicit_gru/gru_cells.cuh"
#include "files.hpp"
#include "stored.hpp"

using namespace lpgpu;

namespace {

struct Sizes {
    int width, intervals, batch, steps, last_steps, groups, implicit, has_bias, has_terms, in_clusters;
    float dt;
};

// What a launch on the GPU does, for one kind of cell, operand and storage.
template <class Cell, class Operand, class Storage, bool ADJOINT, bool IN_CLUSTERS>
void run(const Sizes& n, std::FILE* file)
{
    using Sized = Shape<Operand, 2, 2, 8>;  // two warps; two chunks each; blocks own eight units
    using Marched = March<HostBlock<IN_CLUSTERS>, Sized, Cell>;
    const int64_t state = int64_t(n.batch) * n.width, marched = int64_t(n.intervals) * n.steps * state;
    const auto source = stored<Storage>(read(file, n.intervals * state));
    const auto x_or_c = stored<Storage>(read(file, 3 * marched));
    const auto a = stored<Storage>(read(file, ADJOINT ? marched : 0));
    const auto w = stored<Storage>(read(file, 3 * n.width * n.width));
    const auto b = stored<Storage>(read(file, n.has_bias ? 3 * n.width : 0));
    const auto g = stored<Storage>(read(file, n.has_terms ? marched : 0));
    const auto delta = stored<Storage>(read(file, n.has_terms ? marched : 0));
    const auto anchors = stored<Storage>(read(file, n.has_terms ? marched : 0));
    std::vector<Storage> target = stored<Storage>(std::vector<float>(marched, NAN));

    const int rows = n.intervals * n.batch, tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const int chunks = (n.width + Operand::CHUNK - 1) / Operand::CHUNK;
    std::vector<Word<Cell::DATA>> words(IN_CLUSTERS ? 0 : size_t(256) * chunks * tiles);
    const auto swept = [&](const std::vector<Storage>& tensor, int units) {
        return Swept<const Storage>{tensor.empty() ? nullptr : tensor.data(), n.steps * units * state, units * state, units * n.width};
    };
    GruArguments<Storage> arguments{};
    arguments.extent = {n.width, rows, n.steps, words.data()};
    arguments.rows = {rows, n.batch, n.steps, n.last_steps};
    arguments.source = {source.data(), state, 0, n.width};
    arguments.target = {target.data(), n.steps * state, state, n.width};
    arguments.terms = {swept(g, 1), swept(delta, 1), swept(anchors, 1)};
    arguments.x_or_c = swept(x_or_c, 3);
    arguments.a = swept(a, 1);
    arguments.w = w.data();
    arguments.b = n.has_bias ? b.data() : nullptr;
    arguments.w_row = n.width;
    arguments.dt = n.dt;
    arguments.implicit = n.implicit;

    const int ranks = (chunks * Operand::CHUNK + Sized::UNITS - 1) / Sized::UNITS;
    const int shared = Marched::shared_bytes((tiles + n.groups - 1) / n.groups, chunks);
    launch<IN_CLUSTERS>(ranks, n.groups, 32 * Sized::WARPS, shared, [&](HostBlock<IN_CLUSTERS>& block) {
        Cell cell(arguments);
        Marched(block, cell, arguments.extent).run();
    });
    append(file, numbers(target));
}

template <class Operand, class Storage, bool ACCURATE>
void run(bool adjoint, const Sizes& sizes, std::FILE* file)
{
    using Forward = GruForward<Storage, ACCURATE>;
    using Adjoint = GruAdjoint<Storage>;
    if (adjoint && sizes.in_clusters)
        run<Adjoint, Operand, Storage, true, true>(sizes, file);
    else if (adjoint)
        run<Adjoint, Operand, Storage, true, false>(sizes, file);
    else if (sizes.in_clusters)
        run<Forward, Operand, Storage, false, true>(sizes, file);
    else
        run<Forward, Operand, Storage, false, false>(sizes, file);
}

}  // namespace

int main(int count, char** arguments)
{
    if (count == 2) {
        using Sized = Shape<Bf16Operand, 8, 2, 16>;
        using Forward = March<HostBlock<false>, Sized, GruForward<Bf16, false>>;
        using Adjoint = March<HostBlock<true>, Sized, GruAdjoint<Bf16>>;
        std::printf("%zu %d %d\n", sizeof(GruArguments<Bf16>), Forward::shared_bytes(2, 4), Adjoint::shared_bytes(2, 4));
        return 0;
    }
    if (count < 4) return 2;
    has_barriers = count == 4;
    const bool adjoint = std::string(arguments[1]) == "adjoint";
    const std::string operand = arguments[2];
    std::FILE* file = std::fopen(arguments[3], "r+b");
    Sizes sizes;
    if (!file || std::fread(&sizes, sizeof sizes, 1, file) != 1) return 2;
    if (operand == "bf16")
        run<Bf16Operand, Bf16, false>(adjoint, sizes, file);
    else if (operand == "tf32")
        run<Tf32Operand, float, true>(adjoint, sizes, file);
    else if (operand == "tf32x3")
        run<Tf32x3Operand, float, true>(adjoint, sizes, file);
    else
        return 2;
    std::fclose(file);
}
