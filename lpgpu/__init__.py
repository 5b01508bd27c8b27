"""lpgpu: train deep and recurrent networks parallel in depth and in time, by multigrid reduction in time (MGRIT)."""

from lpgpu.mgrit import MGRIT, DivergenceError, DivergenceWarning, Parareal, Serial, SolveResult
from lpgpu.nn import GRU, LayerParallel

__version__ = "0.1.0"

__all__ = ["GRU", "MGRIT", "DivergenceError", "DivergenceWarning", "LayerParallel", "Parareal", "Serial", "SolveResult"]
