"""Arithmetic of slices, which is how layers and points that are visited together are named."""

from collections.abc import Iterator


def length(indices: slice) -> int:
    """How many indices a slice with non-negative bounds selects."""
    return len(range(indices.start, indices.stop, indices.step or 1))


def shifted(indices: slice, by: int) -> slice:
    """The indices of a slice, each `by` more."""
    return slice(indices.start + by, indices.stop + by, indices.step)


def parts_of(layers: slice, width: int | None) -> Iterator[tuple[slice, slice]]:
    """The K `layers`, at most `width` of them at a time (None: all), and their rows among the K.

    >>> list(parts_of(slice(1, 12, 4), 2))
    [(slice(1, 6, 4), slice(0, 2, None)), (slice(9, 10, 4), slice(2, 3, None))]
    """
    step, count = layers.step or 1, length(layers)
    width = width or max(1, count)
    for row in range(0, count, width):
        stop = min(row + width, count)
        yield slice(layers.start + row * step, layers.start + (stop - 1) * step + 1, step), slice(row, stop)
