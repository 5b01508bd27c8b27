// The affine scan v_{j+1} = φ_j + D_j ⊙ (v_j − a_j) in one pass: φ, a and D are read once, v is written once.
//
// A step is the map v → D v + e with e = φ − D a, and maps compose: (D, e) after (P, E) is (D P, D E + e). A block has 32
// columns, a lane each, and takes SPAN = WARPS · STEPS steps at a time, which its warps hold in registers:
//
//     1. each warp reads its STEPS steps and composes them; the maps of all warps meet in shared memory (barrier)
//     2. where several blocks share the steps of a column, each publishes the map of its span, and composes those of the
//        others, before its own and from it on, every warp a share of them (barrier)
//     3. each warp applies its steps to the state that the maps before it lead to, and writes the states
//
// Every sum has a fixed order, whoever comes first. Rounds of parts · SPAN steps follow each other until all are done;
// words and shared maps have two places that take turns (march.cuh says why that is enough).
#pragma once

#include "../cuda/words.cuh"

namespace lpgpu {

// Element (interval k, step j, column c) is at start[k · interval + j · step + c].
template <class T>
struct Stepped {
    T* start;
    int64_t interval, step;
};

// All that a launch is told; the host fills it in as it stands (cuda_scan.py).
template <class Storage>
struct ScanArguments {
    int64_t columns;
    int steps, tiles, parts;  // tiles of 32 columns; blocks that share a column's steps
    Word<3>* words;           // [intervals][tiles][2][parts, rounded up to 4][32], zero at the launch; null for one part
    Stepped<Storage> v;       // from the given state on
    Stepped<const Storage> phi, anchors, decay;  // decay.start null: D = 1
};

template <class Block, class Storage, class Number, int WARPS, int STEPS>
struct AffineScan {
    static constexpr int SPAN = WARPS * STEPS;
    struct Map {
        Number factor, offset;

        LPGPU_FUNCTION Number operator()(Number v) const { return factor * v + offset; }
        LPGPU_FUNCTION Map after(const Map& first) const { return {factor * first.factor, factor * first.offset + offset}; }
    };
    struct Shared {
        Map of_warp[2][WARPS][32];          // of its steps
        Map before[2][WARPS][32];           // of other blocks' spans: a warp's share of those before this block's,
        Map from_here_on[2][WARPS][32];     // and of this block's and those behind it
    };
    static constexpr int SHARED_BYTES = sizeof(Shared);

    Block& block;
    const ScanArguments<Storage>& p;
    const int tile, part;
    const int64_t column;
    const bool inside;
    Shared& shared;
    Map steps[STEPS];

    LPGPU_FUNCTION AffineScan(Block& block, const ScanArguments<Storage>& arguments)
        : block(block),
          p(arguments),
          tile(block.rank() / arguments.parts),
          part(block.rank() % arguments.parts),
          column(int64_t(32) * tile + block.lane()),
          inside(column < arguments.columns),
          shared(*reinterpret_cast<Shared*>(block.shared()))
    {
    }

    LPGPU_FUNCTION void run()
    {
        Number v = inside ? number(at(p.v, 0)) : Number(0);
        for (int round = 0, first = part * SPAN; round * p.parts * SPAN < p.steps; round++, first += p.parts * SPAN) {
            const int place = round % 2, mine = first + block.warp() * STEPS;
            shared.of_warp[place][block.warp()][block.lane()] = read(mine);
            block.sync();
            Number before = v;
            if (p.parts == 1) {
                for (int w = 0; w < WARPS; w++) v = shared.of_warp[place][w][block.lane()](v);
            } else {
                publish(place, round + 1);
                compose_others(place, round + 1);
                block.sync();
                for (int w = 0; w < WARPS; w++) before = shared.before[place][w][block.lane()](before);
                v = before;
                for (int w = 0; w < WARPS; w++) v = shared.from_here_on[place][w][block.lane()](v);
            }
            for (int w = 0; w < block.warp(); w++) before = shared.of_warp[place][w][block.lane()](before);
            apply(mine, before);
        }
    }

private:
    template <class T>
    LPGPU_FUNCTION T* at(const Stepped<T>& tensor, int step) const
    {
        return tensor.start + block.group() * tensor.interval + step * tensor.step + column;
    }

    LPGPU_FUNCTION static Number number(const Storage* address) { return Number(loaded(address)); }

    // Phase 1. Behind the last step the map is the identity.
    LPGPU_FUNCTION Map read(int first)
    {
        Map all{1, 0};
        LPGPU_UNROLL
        for (int r = 0; r < STEPS; r++) {
            steps[r] = {1, 0};
            if (inside && first + r < p.steps) {
                if (p.decay.start) steps[r].factor = number(at(p.decay, first + r));
                steps[r].offset = number(at(p.phi, first + r)) - steps[r].factor * number(at(p.anchors, first + r));
            }
        }
        LPGPU_UNROLL
        for (int r = 0; r < STEPS; r++) all = steps[r].after(all);
        return all;
    }

    LPGPU_FUNCTION Word<3>* words(int place) const
    {
        const int64_t span = int64_t(p.parts + 3) / 4 * 4 * 32;
        return p.words + ((int64_t(block.group()) * p.tiles + tile) * 2 + place) * span + block.lane();
    }

    // Phase 2: the map of this block's span, by its first warp.
    LPGPU_FUNCTION void publish(int place, uint32_t stamp)
    {
        if (block.warp() != 0) return;
        Map span{1, 0};
        for (int w = 0; w < WARPS; w++) span = shared.of_warp[place][w][block.lane()].after(span);
        block.publish(words(place) + 32 * part, Word<3>{{bits_of(float(span.factor)), bits_of(float(span.offset)), 0}, stamp});
    }

    LPGPU_FUNCTION void compose_others(int place, uint32_t stamp)
    {
        const int fours = (p.parts + 3) / 4;
        Map before{1, 0}, from_here_on{1, 0};
        for (int four = fours * block.warp() / WARPS; four < fours * (block.warp() + 1) / WARPS; four++) {
            Word<3> seen[4] = {};
            bool missing = true;
            for (int looks = 0; missing; looks++) {
                block.observe(seen, words(place) + 128 * four);
                missing = false;
                LPGPU_UNROLL
                for (int i = 0; i < 4; i++) missing |= 4 * four + i < p.parts && seen[i].stamp != stamp;
                if (missing) block.pause(looks);
            }
            LPGPU_UNROLL
            for (int i = 0; i < 4; i++) {
                const Map span{Number(float_of(seen[i].data[0])), Number(float_of(seen[i].data[1]))};
                if (4 * four + i < part)
                    before = span.after(before);
                else if (4 * four + i < p.parts)
                    from_here_on = span.after(from_here_on);
            }
        }
        shared.before[place][block.warp()][block.lane()] = before;
        shared.from_here_on[place][block.warp()][block.lane()] = from_here_on;
    }

    // Phase 3.
    LPGPU_FUNCTION void apply(int first, Number v)
    {
        LPGPU_UNROLL
        for (int r = 0; r < STEPS; r++) {
            v = steps[r](v);
            if (inside && first + r < p.steps) store(at(p.v, first + r + 1), v);
        }
    }
};

}  // namespace lpgpu
