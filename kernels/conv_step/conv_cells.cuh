// What comes before, between and after the convolutions of a sweep (conv_sweep.cuh), forward and adjoint.
#pragma once

#include "../cuda/swept.cuh"

namespace lpgpu {

// One convolution of every layer: weight (out, in, tap) at w.start[… + out · out + in · in + tap · tap], tap = 3 y + x;
// its bias, absent where null; what was saved of its g, for the adjoint.
template <class Storage>
struct ConvFilter {
    Swept<const Storage> w, b, saved;
    int64_t out, in, tap;
};

// All that a launch is told; the host fills it in as it stands (cuda_sweep.py).
template <class Storage>
struct ConvArguments {
    int height, width, convolutions, activation;
    SweptRows rows;               // row = interval · images + image
    Swept<const Storage> source;  // the states that the first step starts from
    Swept<Storage> target;        // those that it leads to
    Terms<Storage> terms;
    ConvFilter<Storage> filters[2];
    float dt;
};

// Where a thread's pair of channels of a pixel is.
struct ConvPlace : PlaceInSweep {
    int channel;
};

// By the number that cuda_sweep.py gives each.
enum Activation { IDENTITY, RELU, SILU, SMOOTH_RELU, TANH };

constexpr float SMOOTH_RELU_ETA = 0.1f;

// g(z); a NaN passes.
template <bool ACCURATE>
LPGPU_FUNCTION float activated(int activation, float z)
{
    switch (activation) {
        case RELU:
            return z < 0.0f ? 0.0f : z;
        case SILU:
            return z * sigmoid<ACCURATE>(z);
        case SMOOTH_RELU: {
            const float lifted = z + SMOOTH_RELU_ETA;
            return z <= -SMOOTH_RELU_ETA ? 0.0f : z >= SMOOTH_RELU_ETA ? z : lifted * lifted * (0.25f / SMOOTH_RELU_ETA);
        }
        case TANH:
            return hyperbolic_tangent<ACCURATE>(z);
        default:
            return z;
    }
}

// g′ d, the slope from what was saved: g(z), or z of silu.
template <bool ACCURATE>
LPGPU_FUNCTION float pulled_back(int activation, float d, float saved)
{
    switch (activation) {
        case RELU:
            return saved <= 0.0f ? 0.0f : d;
        case SILU: {
            const float s = sigmoid<ACCURATE>(saved);
            return d * s * (1.0f + saved * (1.0f - s));
        }
        case SMOOTH_RELU:
            return saved >= SMOOTH_RELU_ETA ? d : d * sqrtf(saved * (1.0f / SMOOTH_RELU_ETA));
        case TANH:
            return d * (1.0f - saved * saved);
        default:
            return d;
    }
}

template <class Storage>
LPGPU_FUNCTION Pair with_terms(const Terms<Storage>& terms, const ConvPlace& place, int step, Pair next, Pair u)
{
    typename Terms<Storage>::Inputs inputs{};
    terms.fetch(place, step, inputs);
    const Pair extra = Terms<Storage>::of(inputs, u);
    return {next.x + extra.x, next.y + extra.y};
}

// u⁺ = u + Δt g(K ∗ … + b) + terms. A convolution's operand is the state, or g of the convolution before.
template <class Storage_, bool ACCURATE>
struct ConvForward {
    using Storage = Storage_;
    static constexpr int SIGN = 1;
    const ConvArguments<Storage>& p;

    LPGPU_FUNCTION explicit ConvForward(const ConvArguments<Storage>& arguments) : p(arguments) {}

    LPGPU_FUNCTION static int filter_of(int convolution) { return convolution; }
    LPGPU_FUNCTION static int64_t weight_at(const ConvFilter<Storage>& of, int column, int summed)
    {
        return column * of.out + summed * of.in;
    }

    LPGPU_FUNCTION Pair operand(Pair u, const ConvPlace&, int) const { return u; }
    LPGPU_FUNCTION Pair between(Pair y, const ConvPlace& place, int step) const { return activations(y, place, step, 0); }
    LPGPU_FUNCTION Pair advance(Pair y, Pair u, const ConvPlace& place, int step) const
    {
        const Pair a = activations(y, place, step, p.convolutions - 1);
        return with_terms(p.terms, place, step, {u.x + p.dt * a.x, u.y + p.dt * a.y}, u);
    }

private:
    LPGPU_FUNCTION Pair activations(Pair y, const ConvPlace& place, int step, int convolution) const
    {
        const Swept<const Storage>& b = p.filters[convolution].b;
        Pair bias{};
        if (b.start) {
            const Storage* at = b.start + place.interval * b.interval + step * b.step + place.channel;
            bias = {loaded(at), loaded(at + 1)};
        }
        return {activated<ACCURATE>(p.activation, y.x + bias.x), activated<ACCURATE>(p.activation, y.y + bias.y)};
    }
};

// λ⁺ = λ + Δt Kᵀ(g′ ⊙ …) + terms. A convolution's operand is pulled back through the g behind it in the forward pass.
template <class Storage_, bool ACCURATE>
struct ConvAdjoint {
    using Storage = Storage_;
    static constexpr int SIGN = -1;
    const ConvArguments<Storage>& p;

    LPGPU_FUNCTION explicit ConvAdjoint(const ConvArguments<Storage>& arguments) : p(arguments) {}

    LPGPU_FUNCTION int filter_of(int convolution) const { return p.convolutions - 1 - convolution; }
    LPGPU_FUNCTION static int64_t weight_at(const ConvFilter<Storage>& of, int column, int summed)
    {
        return summed * of.out + column * of.in;
    }

    LPGPU_FUNCTION Pair operand(Pair lam, const ConvPlace& place, int step) const
    {
        return through(lam, place, step, p.convolutions - 1);
    }
    LPGPU_FUNCTION Pair between(Pair y, const ConvPlace& place, int step) const { return through(y, place, step, 0); }
    LPGPU_FUNCTION Pair advance(Pair y, Pair lam, const ConvPlace& place, int step) const
    {
        return with_terms(p.terms, place, step, {lam.x + p.dt * y.x, lam.y + p.dt * y.y}, lam);
    }

private:
    LPGPU_FUNCTION Pair through(Pair d, const ConvPlace& place, int step, int convolution) const
    {
        const Pair saved = Stored<Storage>::at(place.in(p.filters[convolution].saved, step)).pair();
        return {pulled_back<ACCURATE>(p.activation, d.x, saved.x), pulled_back<ACCURATE>(p.activation, d.y, saved.y)};
    }
};

}  // namespace lpgpu
