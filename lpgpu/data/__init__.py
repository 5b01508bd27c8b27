"""Data sets, one file each; every loader returns a `Dataset`."""

from lpgpu.data.dataset import Dataset
from lpgpu.data.digits import load_digits
from lpgpu.data.peaks import load_peaks

__all__ = ["Dataset", "load_digits", "load_peaks"]
