// Many steps of a convolutional ODE block in one launch, for small images, whose state stays in shared memory.
//
//     forward:  u⁺ = u + Δt g(K² ∗ g(K¹ ∗ u + b¹) + b²)          adjoint:  λ⁺ = λ + Δt K¹ᵀ(g′ ⊙ K²ᵀ(g′ ⊙ λ))
//
// and with one convolution u + Δt g(K ∗ u + b); each + δ ⊙ (u − anchor) + right-hand side. A block has one image of one
// interval. Its shared memory holds
//
//     operands   of a convolution and of the next one, [Y + 2][X + 2][PITCH] words of channels within a border of zeros
//     filters    of a convolution and, where there is room, of the next one, as operands of the matrix unit
//     state      in fp32, every pair of channels in a place of the thread that owns it
//
// A convolution is a product of pixels × (9 taps · channels), in tiles of 16 pixels which the warps share:
//
//     1. the threads read the filter of the next convolution
//     2. each warp multiplies its tiles; each thread applies g to the pairs of channels it owns of them, or advances the
//        state and stores it, and leaves the operand of the next convolution
//        (the block's barrier: what is read next has been written, and what is written next has been read)
//
// With one place for filters phase 1 comes last, behind a barrier of its own and before the other.
#pragma once

#include "../cuda/operands.cuh"
#include "../cuda/swept.cuh"
#include "conv_cells.cuh"

namespace lpgpu {

constexpr int TILE_PIXELS = 16;

template <class Operand>
constexpr int filter_words(int channels)
{
    const int chunks = (9 * channels + Operand::CHUNK - 1) / Operand::CHUNK;
    return chunks * ((channels + 7) / 8) * 32 * Operand::WEIGHT_REGISTERS;
}

// The sizes that a kernel is compiled for, and PLACES for filters: two where they are small.
template <class Operand_, int CHANNELS_, int WARPS_, int PLACES_ = filter_words<Operand_>(CHANNELS_) <= 8192 ? 2 : 1>
struct ConvShape {
    using Operand = Operand_;
    static constexpr int CHANNELS = CHANNELS_, WARPS = WARPS_, THREADS = 32 * WARPS, PLACES = PLACES_;
    static constexpr int COLUMN_TILES = (CHANNELS + 7) / 8;
    static constexpr int CHUNKS = (9 * CHANNELS + Operand::CHUNK - 1) / Operand::CHUNK;
    static constexpr int WORDS = CHANNELS / Operand::PER_REGISTER;    // of a pixel
    static constexpr int PITCH = WORDS % 8 == 0 ? WORDS + 4 : WORDS;  // eight pixels in different banks
    static constexpr int FILTER_WORDS = filter_words<Operand>(CHANNELS);
    static_assert(CHANNELS % 4 == 0, "pairs of channels, and of units of half a chunk, belong to one tap");

    LPGPU_FUNCTION static int operand_words(int height, int width) { return (height + 2) * (width + 2) * PITCH; }
    LPGPU_FUNCTION static int pairs(int height, int width)
    {
        return (height * width + TILE_PIXELS * WARPS - 1) / (TILE_PIXELS * WARPS) * COLUMN_TILES * 2 * THREADS;
    }
    LPGPU_FUNCTION static int shared_bytes(int height, int width)
    {
        return 4 * (2 * pairs(height, width) + 2 * operand_words(height, width) + PLACES * FILTER_WORDS);
    }
};

template <class Block, class Shape, class Cell>
struct ConvSweep {
    using Operand = typename Shape::Operand;
    using Storage = typename Cell::Storage;
    static constexpr int HALF = Operand::CHUNK / 2;
    struct alignas(4 * Operand::WEIGHT_REGISTERS) Held {  // a lane's weights of a chunk and eight columns
        uint32_t words[Operand::WEIGHT_REGISTERS];
    };

    Block& block;
    const ConvArguments<Storage>& p;
    const Cell cell;
    const int pixels, row;       // of an operand image, in words
    const PlaceInSweep image;    // its first pixel
    Pair* const states;          // [turns][COLUMN_TILES][2][THREADS]
    uint32_t* const operands;    // [2][operand_words]
    uint32_t* const filters;     // [PLACES][FILTER_WORDS]

    LPGPU_FUNCTION ConvSweep(Block& block, const ConvArguments<Storage>& arguments)
        : block(block),
          p(arguments),
          cell(arguments),
          pixels(arguments.height * arguments.width),
          row((arguments.width + 2) * Shape::PITCH),
          image(PlaceInSweep::of(arguments.rows, block.rank(), 0, 1)),
          states(reinterpret_cast<Pair*>(block.shared())),
          operands(reinterpret_cast<uint32_t*>(states + Shape::pairs(arguments.height, arguments.width))),
          filters(operands + 2 * Shape::operand_words(arguments.height, arguments.width))
    {
    }

    LPGPU_FUNCTION void run()
    {
        for (int i = block.thread(); i < 2 * Shape::operand_words(p.height, p.width); i += Shape::THREADS) operands[i] = 0;
        block.sync();
        start();
        read_filter(0, 0);
        block.sync();
        const int convolutions = image.steps * p.convolutions;
        for (int i = 0; i < convolutions; i++) {
            const int from = i % 2, place = Shape::PLACES == 2 ? i % 2 : 0;
            if (Shape::PLACES == 2 && i + 1 < convolutions) read_filter(i + 1, 1 - place);
            convolve(i / p.convolutions, i % p.convolutions, operand(from), operand(1 - from), filter(place));
            block.sync();
            if (Shape::PLACES == 1 && i + 1 < convolutions) {
                read_filter(i + 1, 0);
                block.sync();
            }
        }
    }

private:
    LPGPU_FUNCTION uint32_t* operand(int i) const { return operands + i * Shape::operand_words(p.height, p.width); }
    LPGPU_FUNCTION uint32_t* filter(int i) const { return filters + i * Shape::FILTER_WORDS; }

    // Where an operand image has the first word of a pixel; of those behind the last one, any that can be read.
    LPGPU_FUNCTION int word_of(int pixel) const
    {
        const int inside = pixel < pixels ? pixel : 0;
        return (inside / p.width + 1) * row + (inside % p.width + 1) * Shape::PITCH;
    }

    // The thread's pair of channels of a tile's pixel: tile i of this warp, columns of tile n, half of its pixels.
    LPGPU_FUNCTION Pair& state(int i, int n, int half) const
    {
        return states[((i * Shape::COLUMN_TILES + n) * 2 + half) * Shape::THREADS + block.thread()];
    }

    // Apply `each(n, half, word, place)` to the thread's pairs of channels of a tile, where these are in the image.
    template <class Each>
    LPGPU_FUNCTION void of_tile(int tile, Each each) const
    {
        LPGPU_UNROLL
        for (int half = 0; half < 2; half++) {
            const int pixel = tile * TILE_PIXELS + block.lane() / 4 + 8 * half;
            LPGPU_UNROLL
            for (int n = 0; n < Shape::COLUMN_TILES; n++) {
                const int channel = 8 * n + block.lane() % 4 * 2;
                const int unit = pixel * Shape::CHANNELS + channel;
                const ConvPlace place{{image.interval, image.row, unit, image.steps}, channel};
                if (pixel < pixels && channel < Shape::CHANNELS) each(n, half, word_of(pixel), place);
            }
        }
    }

    // Leave a pair of channels as operands of the next convolution.
    LPGPU_FUNCTION void leave(uint32_t* to, int word, int channel, Pair pair) const
    {
        LPGPU_UNROLL
        for (int i = 0; i < 2 / Operand::PER_REGISTER; i++)
            to[word + channel / Operand::PER_REGISTER + i] = Operand::message(pair, i);
    }

    LPGPU_FUNCTION void start()
    {
        for (int tile = block.warp(), i = 0; tile * TILE_PIXELS < pixels; tile += Shape::WARPS, i++) {
            of_tile(tile, [&](int n, int half, int word, const ConvPlace& place) {
                const Pair u = Stored<Storage>::at(place.in(p.source, 0)).pair();
                state(i, n, half) = u;
                leave(operand(0), word, place.channel, image.steps > 0 ? cell.operand(u, place, 0) : Pair{});
            });
        }
    }

    // Phase 1: the filter of the i-th convolution, counted through the steps.
    LPGPU_FUNCTION void read_filter(int i, int place)
    {
        const int step = i / p.convolutions;
        if (step >= image.steps) return;
        const ConvFilter<Storage>& of = p.filters[cell.filter_of(i % p.convolutions)];
        const Storage* w = of.w.start + image.interval * of.w.interval + step * of.w.step;
        for (int item = block.thread(); item < Shape::CHUNKS * Shape::COLUMN_TILES * 32; item += Shape::THREADS) {
            const int lane = item % 32, n = item / 32 % Shape::COLUMN_TILES, chunk = item / 32 / Shape::COLUMN_TILES;
            const int column = 8 * n + lane / 4;
            float b[2][2] = {};
            LPGPU_UNROLL
            for (int j = 0; j < 2 * Operand::PER_REGISTER; j++) {
                const int half = j / Operand::PER_REGISTER, unit = j % Operand::PER_REGISTER;
                const int k = chunk * Operand::CHUNK + half * HALF + lane % 4 * Operand::PER_REGISTER + unit;
                const int tap = k / Shape::CHANNELS, summed = k % Shape::CHANNELS;
                if (tap < 9 && column < Shape::CHANNELS)
                    b[half][unit] = loaded(w + cell.weight_at(of, column, summed) + tap * of.tap);
            }
            Operand::hold(reinterpret_cast<Held*>(filter(place))[item].words, b);
        }
    }

    // Where, from a pixel's first word, this lane's operand of half a chunk lies. Behind the last tap weights are 0.
    LPGPU_FUNCTION int offset_of(int chunk, int half) const
    {
        const int k = chunk * Operand::CHUNK + half * HALF + block.lane() % 4 * Operand::PER_REGISTER;
        const int tap = k / Shape::CHANNELS < 9 ? k / Shape::CHANNELS : 8, channel = k % Shape::CHANNELS;
        return Cell::SIGN * ((tap / 3 - 1) * row + (tap % 3 - 1) * Shape::PITCH) + channel / Operand::PER_REGISTER;
    }

    // Phase 2.
    LPGPU_FUNCTION void convolve(int step, int which, const uint32_t* from, uint32_t* to, const uint32_t* weights)
    {
        for (int tile = block.warp(), i = 0; tile * TILE_PIXELS < pixels; tile += Shape::WARPS, i++) {
            float sum[Shape::COLUMN_TILES][4] = {};
            multiply(tile, from, weights, sum);
            of_tile(tile, [&](int n, int half, int word, const ConvPlace& place) {
                const Pair y{sum[n][2 * half], sum[n][2 * half + 1]};
                if (which + 1 < p.convolutions) return leave(to, word, place.channel, cell.between(y, place, step));
                Pair& u = state(i, n, half);
                u = cell.advance(y, u, place, step);
                store_pair(place.in(p.target, step), u);
                if (step + 1 < image.steps) leave(to, word, place.channel, cell.operand(u, place, step + 1));
            });
        }
    }

    LPGPU_FUNCTION void multiply(
        int tile, const uint32_t* from, const uint32_t* weights, float (&sum)[Shape::COLUMN_TILES][4])
    {
        const int pixel = tile * TILE_PIXELS + block.lane() / 4;
        const uint32_t *const first = from + word_of(pixel), *const second = from + word_of(pixel + 8);
        LPGPU_UNROLL_BY(9)
        for (int chunk = 0; chunk < Shape::CHUNKS; chunk++) {
            const int low = offset_of(chunk, 0), high = offset_of(chunk, 1);
            const uint32_t a[4] = {first[low], second[low], first[high], second[high]};
            LPGPU_UNROLL
            for (int n = 0; n < Shape::COLUMN_TILES; n++) {
                const Held b = reinterpret_cast<const Held*>(weights)[(chunk * Shape::COLUMN_TILES + n) * 32 + block.lane()];
                Operand::multiply_add(block, sum[n], a, b.words);
            }
        }
    }
};

}  // namespace lpgpu
