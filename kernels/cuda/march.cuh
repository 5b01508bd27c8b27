// A recurrence over all its steps in one launch, its weights spread over many blocks' registers.
//
//     y[row, column] = Σ over d, k of  m_d[row, k] W_d[k, column],     m = the message that the state makes
//
// Each block owns UNITS units of the state and the columns of W that lead to them. Its warps share the sum over k: warp
// w takes every WARPS-th chunk of units, whose weights stay in its registers throughout. A step of a tile of 16 rows:
//
//     1. every warp waits for its chunks of the message, as operands straight from the second-level cache
//     2. multiplies, and leaves its part of the sum in shared memory
//        (the block's barrier, the only one of a step)
//     3. the first threads add the parts up, each for a pair of units of a row, advance the state by the cell's
//        formula, and publish the message of the next step
//
// The message's words have two places, for odd and even steps. A block writes step s + 1's where s − 1's were: by then
// it has seen the messages of step s from all blocks, and a block sends that of step s after its barrier, which is after
// all its warps have read those of s − 1. The shared sums have two places for the same reason.
//
// Where the words are, the Block decides: in global memory, read by all, or in the shared memory of every block of a
// cluster, written by all.
//
// Several tiles of rows take turns in a block, so that one tile's exchange is hidden behind the work of others. All
// blocks that share tiles must be resident at once (a cooperative launch, or a cluster).
#pragma once

#include "words.cuh"

namespace lpgpu {

constexpr int TILE_ROWS = 16;

// The sizes a kernel is compiled for: units up to WARPS · CHUNKS · Operand::CHUNK in all, UNITS of them a block's.
template <class Operand_, int WARPS_, int CHUNKS_, int UNITS_>
struct Shape {
    using Operand = Operand_;
    static constexpr int WARPS = WARPS_, CHUNKS = CHUNKS_, UNITS = UNITS_;
    static constexpr int PAIRS = TILE_ROWS * UNITS / 2;
    static_assert(UNITS % 8 == 0 && PAIRS <= 32 * WARPS, "a thread takes one pair of units of a row at most");
};

// What a march is over. `words`, 256 · chunks of them for each tile of rows, is zero at the launch; null in clusters.
struct Extent {
    int width, rows, steps;
    void* words;
};

template <class Block, class Shape, class Cell>
struct March {
    using Operand = typename Shape::Operand;
    using Message = Word<Cell::DATA>;
    using Inputs = typename Cell::Inputs;
    using Place = typename Cell::Place;
    struct Kept {  // of a pair, by the thread that owns it
        Pair state;
        Place place;
    };
    static constexpr int COLUMNS = Cell::GATES * Shape::UNITS, COLUMN_TILES = COLUMNS / 8;
    static constexpr int PITCH = COLUMNS + (COLUMNS % 16 == 0 ? 8 : 0);  // a warp's sums in different banks
    static constexpr int SUMS = Shape::WARPS * TILE_ROWS * PITCH;
    // chunks whose message is held at once, in turns of about equal size: as many as leave registers to the weights, but
    // few where it is near
    static constexpr int MOST = Block::IN_CLUSTERS ? 2 : Cell::DATA == 1 ? 8 : 4;
    static constexpr int TURNS = (Shape::CHUNKS + MOST - 1) / MOST;
    static constexpr int TOGETHER = (Shape::CHUNKS + TURNS - 1) / TURNS;

    Block& block;
    Cell& cell;
    const Extent extent;
    const int chunks, tiles;
    const bool owner;              // of a pair: row `row` of a tile, units `unit` and `unit` + 1
    const int row, column, unit;
    float* const sums;             // [2][WARPS][TILE_ROWS][PITCH]
    Kept* const kept;              // [tiles of this block][PAIRS]
    Message* const words;          // [tiles][2][chunks][4][32]; in a cluster, tiles of this block
    uint32_t weights[Shape::CHUNKS][Cell::DATA][COLUMN_TILES][Operand::WEIGHT_REGISTERS];

    // Bytes of shared memory of a block that takes so many tiles in turn.
    static int shared_bytes(int tiles, int chunks)
    {
        const int words = Block::IN_CLUSTERS ? int(sizeof(Message)) * 256 * chunks * tiles : 0;
        return int(sizeof(float)) * 2 * SUMS + int(sizeof(Kept)) * tiles * Shape::PAIRS + words;
    }

    LPGPU_FUNCTION March(Block& block, Cell& cell, const Extent& extent)
        : block(block),
          cell(cell),
          extent(extent),
          chunks((extent.width + Operand::CHUNK - 1) / Operand::CHUNK),
          tiles((extent.rows + TILE_ROWS - 1) / TILE_ROWS),
          owner(block.thread() < Shape::PAIRS && unit_of(block) < chunks * Operand::CHUNK),
          row(block.thread() / (Shape::UNITS / 2)),
          column(2 * (block.thread() % (Shape::UNITS / 2))),
          unit(unit_of(block)),
          sums(block.shared()),
          kept(reinterpret_cast<Kept*>(block.shared() + 2 * SUMS)),
          words(Block::IN_CLUSTERS ? reinterpret_cast<Message*>(kept + turns() * Shape::PAIRS)
                                   : static_cast<Message*>(extent.words))
    {
    }

    LPGPU_FUNCTION void run()
    {
        if constexpr (Block::IN_CLUSTERS) {
            for (int i = block.thread(); i < turns() * chunks * 256; i += 32 * Shape::WARPS) words[i] = Message{};
        }
        block.sync_cluster();
        hold_weights();
        if (owner) cell.prepare(unit);
        Inputs inputs{};
        if (owner) {
            for (int tile = block.group(), i = 0; tile < tiles; tile += block.groups(), i++) {
                const Place place = placed(tile);
                const Pair state = cell.start(place);
                kept[i * Shape::PAIRS + block.thread()] = {state, place};
                publish(tile, message(tile, i, 0), 0, state, cell.fetch(place, -1));
            }
            inputs = cell.fetch(kept[block.thread()].place, 0);
        }
        int buffer = 0;
        for (int step = 0; step < extent.steps; step++) {
            for (int tile = block.group(), i = 0; tile < tiles; tile += block.groups(), i++) {
                multiply(message(tile, i, step), step + 1, sums + buffer * SUMS);
                block.sync();
                if (owner) {
                    const bool last = tile + block.groups() >= tiles;
                    Kept& mine = kept[i * Shape::PAIRS + block.thread()];
                    const Kept& next = kept[last ? block.thread() : (i + 1) * Shape::PAIRS + block.thread()];
                    mine.state = cell.advance(summed(sums + buffer * SUMS).of_gate, inputs, mine.state);
                    if (step + 1 < extent.steps) publish(tile, message(tile, i, step + 1), step + 1, mine.state, inputs);
                    // until the next turn of phase 3 these loads have all the time in which others' messages come
                    inputs = cell.fetch(next.place, step + int(last));
                    cell.store(mine.place, step, mine.state);
                }
                buffer ^= 1;
            }
        }
        block.sync_cluster();
    }

private:
    LPGPU_FUNCTION static int unit_of(const Block& block)
    {
        return block.rank() * Shape::UNITS + 2 * (block.thread() % (Shape::UNITS / 2));
    }

    // Row and unit that this thread's pair has in a tile.
    LPGPU_FUNCTION Place placed(int tile) const { return cell.place(tile * TILE_ROWS + row, unit); }

    // Tiles that take turns in this block.
    LPGPU_FUNCTION int turns() const { return (tiles + block.groups() - 1) / block.groups(); }

    // Of a tile, this block's i-th.
    LPGPU_FUNCTION Message* message(int tile, int i, int step) const
    {
        return words + int64_t(2 * (Block::IN_CLUSTERS ? i : tile) + step % 2) * chunks * 128;
    }

    LPGPU_FUNCTION void hold_weights()
    {
        const int g = block.lane() / 4, t = block.lane() % 4;
        LPGPU_UNROLL
        for (int c = 0; c < Shape::CHUNKS; c++) {
            LPGPU_UNROLL
            for (int d = 0; d < Cell::DATA; d++) {
                LPGPU_UNROLL
                for (int n = 0; n < COLUMN_TILES; n++) {
                    const int chunk = block.warp() + c * Shape::WARPS, col = 8 * n + g;
                    const int target = block.rank() * Shape::UNITS + col % Shape::UNITS;
                    float b[2][2] = {};
                    LPGPU_UNROLL
                    for (int j = 0; j < 2 * Operand::PER_REGISTER; j++) {
                        const int half = j / Operand::PER_REGISTER, i = j % Operand::PER_REGISTER;
                        const int k = chunk * Operand::CHUNK + half * (Operand::CHUNK / 2) + t * Operand::PER_REGISTER + i;
                        if (k < extent.width && target < extent.width)
                            b[half][i] = cell.weight(d, k, col / Shape::UNITS, target);
                    }
                    Operand::hold(weights[c][d][n], b);
                }
            }
        }
    }

    // Phases 1 and 2.
    LPGPU_FUNCTION void multiply(const Message* from, int stamp, float* part)
    {
        float sum[COLUMN_TILES][4] = {};
        LPGPU_UNROLL
        for (int c = 0; c < Shape::CHUNKS; c += TOGETHER) {
            Message seen[TOGETHER][4] = {};
            await(from, stamp, c, seen);
            LPGPU_UNROLL
            for (int j = 0; j < TOGETHER; j++) {
                if (c + j < Shape::CHUNKS && here(c + j)) {
                    LPGPU_UNROLL
                    for (int d = 0; d < Cell::DATA; d++) {
                        const uint32_t a[4] = {seen[j][0].data[d], seen[j][1].data[d], seen[j][2].data[d], seen[j][3].data[d]};
                        LPGPU_UNROLL
                        for (int n = 0; n < COLUMN_TILES; n++)
                            Operand::multiply_add(block, sum[n], a, weights[c + j < Shape::CHUNKS ? c + j : 0][d][n]);
                    }
                }
            }
        }
        float* mine = part + block.warp() * TILE_ROWS * PITCH + block.lane() / 4 * PITCH + block.lane() % 4 * 2;
        LPGPU_UNROLL
        for (int n = 0; n < COLUMN_TILES; n++) {
            store_pair(mine + 8 * n, {sum[n][0], sum[n][1]});
            store_pair(mine + 8 * PITCH + 8 * n, {sum[n][2], sum[n][3]});
        }
    }

    // Whether this warp's chunk c is one of the state's.
    LPGPU_FUNCTION bool here(int c) const { return block.warp() + c * Shape::WARPS < chunks; }

    // Look at all chunks until each has the stamp: those that have not come are looked at together.
    LPGPU_FUNCTION void await(const Message* from, uint32_t stamp, int c, Message (&seen)[TOGETHER][4])
    {
        bool missing = true;
        for (int looks = 0; missing; looks++) {
            LPGPU_UNROLL
            for (int j = 0; j < TOGETHER; j++)
                if (c + j < Shape::CHUNKS && here(c + j) && !arrived(seen[j], stamp))
                    block.observe(seen[j], from + (block.warp() + (c + j) * Shape::WARPS) * 128 + block.lane());
            missing = false;
            LPGPU_UNROLL
            for (int j = 0; j < TOGETHER; j++)
                missing |= c + j < Shape::CHUNKS && here(c + j) && !arrived(seen[j], stamp);
            if (missing) block.pause(looks);
        }
        block.sync_warp();
    }

    LPGPU_FUNCTION static bool arrived(const Message (&words)[4], uint32_t stamp)
    {
        return words[0].stamp == stamp && words[1].stamp == stamp && words[2].stamp == stamp && words[3].stamp == stamp;
    }

    struct Sums {
        Pair of_gate[Cell::GATES];
    };

    // Of this thread's pair, from the parts of all warps.
    LPGPU_FUNCTION Sums summed(const float* part) const
    {
        Sums y{};
        LPGPU_UNROLL
        for (int w = 0; w < Shape::WARPS; w++) {
            LPGPU_UNROLL
            for (int gate = 0; gate < Cell::GATES; gate++) {
                const float* at = part + (w * TILE_ROWS + row) * PITCH + gate * Shape::UNITS + column;
                const Pair of_warp = *reinterpret_cast<const Pair*>(at);
                y.of_gate[gate].x += of_warp.x;
                y.of_gate[gate].y += of_warp.y;
            }
        }
        return y;
    }

    // The pair's part of the message of `step`, where the matrix unit wants it (operands.cuh).
    LPGPU_FUNCTION void publish(int tile, Message* to, int step, Pair state, const Inputs& inputs)
    {
        Pair m[Cell::DATA];
        cell.message(state, inputs, m);
        const bool inside = tile * TILE_ROWS + row < extent.rows && unit < extent.width;
        LPGPU_UNROLL
        for (int i = 0; i < 2 / Operand::PER_REGISTER; i++) {
            const int k = (unit + i) % Operand::CHUNK, half = k / (Operand::CHUNK / 2);
            const int lane = row % 8 * 4 + k % (Operand::CHUNK / 2) / Operand::PER_REGISTER;
            Message word;
            word.stamp = step + 1;
            LPGPU_UNROLL
            for (int d = 0; d < Cell::DATA; d++) word.data[d] = inside ? Operand::message(m[d], i) : 0;
            block.publish(to + (unit + i) / Operand::CHUNK * 128 + (row / 8 + 2 * half) * 32 + lane, word);
        }
    }
};

}  // namespace lpgpu
