"""Data sets, one file each; every loader returns a `Dataset`."""

from lpgpu.data.adding import load_adding
from lpgpu.data.dataset import Dataset
from lpgpu.data.digits import load_digits
from lpgpu.data.errors import DataError
from lpgpu.data.indian_pines import load_indian_pines
from lpgpu.data.lorenz import load_lorenz
from lpgpu.data.mnist import FASHION_MNIST, MNIST, Source, load_mnist
from lpgpu.data.peaks import load_peaks
from lpgpu.data.seq_digits import load_seq_digits
from lpgpu.data.text import load_text
from lpgpu.data.uci_har import load_uci_har

__all__ = [
    "FASHION_MNIST",
    "MNIST",
    "DataError",
    "Dataset",
    "Source",
    "load_adding",
    "load_digits",
    "load_indian_pines",
    "load_lorenz",
    "load_mnist",
    "load_peaks",
    "load_seq_digits",
    "load_text",
    "load_uci_har",
]
