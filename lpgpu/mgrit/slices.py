"""Arithmetic of slices, which is how layers and points that are visited together are named."""


def length(indices: slice) -> int:
    """How many indices a slice with non-negative bounds selects."""
    return len(range(indices.start, indices.stop, indices.step or 1))


def shifted(indices: slice, by: int) -> slice:
    """The indices of a slice, each `by` more."""
    return slice(indices.start + by, indices.stop + by, indices.step)
