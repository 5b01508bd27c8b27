"""What hypothesis draws for the fused kernels: apart, as all else here must run where hypothesis is not installed."""

from hypothesis import strategies as st

from lpgpu.kernels.sweep import Sweep


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    """Every kind that the solver does, over up to 8 layers: F-sweeps, whole marches, ragged ends, both ways."""
    interval = draw(st.integers(2, 4))
    reverse = draw(st.booleans())
    if reverse:
        intervals = draw(st.integers(1, 2))
        steps = draw(st.integers(1, interval if intervals == 1 else interval - 1))
        first = draw(st.integers(steps - 1, interval - 1))
        return Sweep(intervals * interval, first, interval, steps, reverse=True)
    layers = draw(st.integers(1, 8))
    first = draw(st.integers(0, min(interval, layers) - 1))
    limit = layers if first + interval >= layers else interval - 1 - first
    return Sweep(layers, first, interval, draw(st.integers(1, max(1, min(limit, 4)))))
