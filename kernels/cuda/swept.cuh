// Tensors over the steps of a sweep of many intervals, and where a thread's pair of neighbours is in them.
#pragma once

#include "numbers.cuh"

namespace lpgpu {

// A tensor over the steps of many intervals: element (interval i, step j, batch row r, unit u) is at
// start[i · interval + j · step + r · row + u]. Absent where `start` is null.
template <class T>
struct Swept {
    T* start;
    int64_t interval, step, row;
};

// Which rows a sweep has, row = interval · batch + batch row, and how far each goes: the last interval may end early.
struct SweptRows {
    int num_rows, batch, steps, last_steps;
};

// Where a thread's pair of units is in every `Swept`, and how many steps its row goes.
struct PlaceInSweep {
    int interval, row, unit, steps;

    LPGPU_FUNCTION static PlaceInSweep of(const SweptRows& rows, int row, int unit, int width)
    {
        if (row >= rows.num_rows || unit >= width) return {0, 0, 0, 0};
        const int interval = row / rows.batch, last = rows.num_rows / rows.batch - 1;
        return {interval, row % rows.batch, unit, interval == last ? rows.last_steps : rows.steps};
    }

    template <class T>
    LPGPU_FUNCTION T* in(const Swept<T>& tensor, int step) const
    {
        return tensor.start + interval * tensor.interval + step * tensor.step + row * tensor.row + unit;
    }
};

// What a step adds to Φ: δ ⊙ (u − anchor) + g, each of the three tensors absent or there.
template <class Storage>
struct Terms {
    Swept<const Storage> g, delta, anchors;
    struct Inputs {
        Stored<Storage> g, delta, anchor;
    };

    LPGPU_FUNCTION void fetch(const PlaceInSweep& place, int step, Inputs& inputs) const
    {
        if (g.start) inputs.g = Stored<Storage>::at(place.in(g, step));
        if (delta.start) {
            inputs.delta = Stored<Storage>::at(place.in(delta, step));
            inputs.anchor = Stored<Storage>::at(place.in(anchors, step));
        }
    }

    // Absent terms are zeros.
    LPGPU_FUNCTION static Pair of(const Inputs& inputs, Pair u)
    {
        const Pair g = inputs.g.pair(), delta = inputs.delta.pair(), anchor = inputs.anchor.pair();
        return {g.x + delta.x * (u.x - anchor.x), g.y + delta.y * (u.y - anchor.y)};
    }
};

}  // namespace lpgpu
