// The GRU's step and its adjoint, as cells of a march (kernels/cuda/march.cuh). Formulas and letters: __init__.py.
#pragma once

#include "../cuda/march.cuh"
#include "../cuda/swept.cuh"

namespace lpgpu {

// All that a launch is told; the host fills it in as it stands (cuda_march.py).
template <class Storage>
struct GruArguments {
    Extent extent;
    SweptRows rows;
    Swept<const Storage> source;  // the states that the first step starts from
    Swept<Storage> target;        // those that it leads to
    Terms<Storage> terms;
    Swept<const Storage> x_or_c;  // forward: W_i x + b_i; adjoint: c; [3 H] each
    Swept<const Storage> a;       // adjoint only
    const Storage* w;
    const Storage* b;  // forward only; may be null
    int64_t w_row;
    float dt;
    int implicit;
};

// h⁺ = Φ(h) + terms. The message is h itself; the columns of a unit are its three gates.
template <class Storage_, bool ACCURATE>
struct GruForward {
    using Storage = Storage_;
    static constexpr int DATA = 1, GATES = 3;
    using Place = PlaceInSweep;
    struct Inputs {
        Stored<Storage> x[3];
        typename Terms<Storage>::Inputs terms;
    };

    const GruArguments<Storage>& p;
    Pair bias[3];

    LPGPU_FUNCTION explicit GruForward(const GruArguments<Storage>& arguments) : p(arguments), bias{} {}

    LPGPU_FUNCTION float weight(int, int k, int gate, int unit) const
    {
        return loaded(p.w + int64_t(gate * p.extent.width + unit) * p.w_row + k);
    }

    LPGPU_FUNCTION void prepare(int unit)
    {
        if (!p.b || unit >= p.extent.width) return;
        LPGPU_UNROLL
        for (int gate = 0; gate < 3; gate++) bias[gate] = Stored<Storage>::at(p.b + gate * p.extent.width + unit).pair();
    }

    LPGPU_FUNCTION Place place(int row, int unit) const { return Place::of(p.rows, row, unit, p.extent.width); }

    LPGPU_FUNCTION Pair start(const Place& place) const
    {
        return place.steps ? Stored<Storage>::at(place.in(p.source, 0)).pair() : Pair{};
    }

    LPGPU_FUNCTION Inputs fetch(const Place& place, int step) const
    {
        Inputs inputs{};
        if (step < 0 || step >= place.steps) return inputs;
        LPGPU_UNROLL
        for (int gate = 0; gate < 3; gate++)
            inputs.x[gate] = Stored<Storage>::at(place.in(p.x_or_c, step) + gate * p.extent.width);
        p.terms.fetch(place, step, inputs.terms);
        return inputs;
    }

    LPGPU_FUNCTION void message(Pair h, const Inputs&, Pair (&m)[1]) const { m[0] = h; }

    LPGPU_FUNCTION Pair advance(const Pair (&y)[3], const Inputs& inputs, Pair h) const
    {
        const Pair x_r = inputs.x[0].pair(), x_z = inputs.x[1].pair(), x_n = inputs.x[2].pair();
        const Pair extra = Terms<Storage>::of(inputs.terms, h);
        return {next(x_r.x + (y[0].x + bias[0].x), x_z.x + (y[1].x + bias[1].x), x_n.x, y[2].x + bias[2].x, h.x) + extra.x,
                next(x_r.y + (y[0].y + bias[0].y), x_z.y + (y[1].y + bias[1].y), x_n.y, y[2].y + bias[2].y, h.y) + extra.y};
    }

    LPGPU_FUNCTION void store(const Place& place, int step, Pair h) const
    {
        if (step < place.steps) store_pair(place.in(p.target, step), h);
    }

private:
    // r and z from their pre-activations; where z is exactly 1, d is 0 and h⁺ exactly h.
    LPGPU_FUNCTION float next(float r, float z, float x_n, float q, float h) const
    {
        const float n = hyperbolic_tangent<ACCURATE>(x_n + sigmoid<ACCURATE>(r) * q);
        const float d = p.dt * (1.0f - sigmoid<ACCURATE>(z));
        return p.implicit ? (h + d * n) / (1.0f + d) : h + d * (n - h);
    }
};

// λ⁺ = a ⊙ λ + Wᵀ (c ⊙ λ) + terms. The message is c ⊙ λ of the three gates.
template <class Storage_>
struct GruAdjoint {
    using Storage = Storage_;
    static constexpr int DATA = 3, GATES = 1;
    using Place = PlaceInSweep;
    struct Inputs {
        Stored<Storage> a, c[3];  // c is that of the step after this one
        typename Terms<Storage>::Inputs terms;
    };

    const GruArguments<Storage>& p;

    LPGPU_FUNCTION explicit GruAdjoint(const GruArguments<Storage>& arguments) : p(arguments) {}

    LPGPU_FUNCTION float weight(int gate, int k, int, int unit) const
    {
        return loaded(p.w + int64_t(gate * p.extent.width + k) * p.w_row + unit);
    }

    LPGPU_FUNCTION void prepare(int) {}

    LPGPU_FUNCTION Place place(int row, int unit) const { return Place::of(p.rows, row, unit, p.extent.width); }

    LPGPU_FUNCTION Pair start(const Place& place) const
    {
        return place.steps ? Stored<Storage>::at(place.in(p.source, 0)).pair() : Pair{};
    }

    LPGPU_FUNCTION Inputs fetch(const Place& place, int step) const
    {
        Inputs inputs{};
        if (step + 1 < place.steps) {
            LPGPU_UNROLL
            for (int gate = 0; gate < 3; gate++)
                inputs.c[gate] = Stored<Storage>::at(place.in(p.x_or_c, step + 1) + gate * p.extent.width);
        }
        if (step >= 0 && step < place.steps) {
            inputs.a = Stored<Storage>::at(place.in(p.a, step));
            p.terms.fetch(place, step, inputs.terms);
        }
        return inputs;
    }

    LPGPU_FUNCTION void message(Pair lam, const Inputs& inputs, Pair (&m)[3]) const
    {
        LPGPU_UNROLL
        for (int gate = 0; gate < 3; gate++) {
            const Pair c = inputs.c[gate].pair();
            m[gate] = {c.x * lam.x, c.y * lam.y};
        }
    }

    LPGPU_FUNCTION Pair advance(const Pair (&y)[1], const Inputs& inputs, Pair lam) const
    {
        const Pair a = inputs.a.pair(), extra = Terms<Storage>::of(inputs.terms, lam);
        return {a.x * lam.x + y[0].x + extra.x, a.y * lam.y + y[0].y + extra.y};
    }

    LPGPU_FUNCTION void store(const Place& place, int step, Pair lam) const
    {
        if (step < place.steps) store_pair(place.in(p.target, step), lam);
    }
};

}  // namespace lpgpu
