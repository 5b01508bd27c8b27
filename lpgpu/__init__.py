"""lpgpu: train deep and recurrent networks parallel in depth and in time, by multigrid reduction in time (MGRIT)."""

from lpgpu.comm import ProcessGrid
from lpgpu.mgrit import MGRIT, DivergenceError, DivergenceWarning, Parareal, Serial, SolveResult
from lpgpu.nn import GRU, LSTM, LayerParallel, Recurrent, parallelize, unparallelize
from lpgpu.nn.averaging import average_gradients, overlap_gradients
from lpgpu.nn.gradients import clip_grad_norm_
from lpgpu.nn.parameter_groups import param_groups
from lpgpu.nn.state import (
    full_optimizer_state_dict,
    full_state_dict,
    load_full_optimizer_state_dict,
    load_full_state_dict,
)
from lpgpu.nn.statistics import InexactStatisticsWarning
from lpgpu.nn.tune import tune
from lpgpu.nn.verify import SolveErrors, Verification, verify
from lpgpu.nn.weights_file import load_weights, save_weights

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "MGRIT",
    "DivergenceError",
    "DivergenceWarning",
    "InexactStatisticsWarning",
    "LayerParallel",
    "Parareal",
    "ProcessGrid",
    "Recurrent",
    "Serial",
    "SolveErrors",
    "SolveResult",
    "Verification",
    "average_gradients",
    "clip_grad_norm_",
    "full_optimizer_state_dict",
    "full_state_dict",
    "load_full_optimizer_state_dict",
    "load_full_state_dict",
    "load_weights",
    "overlap_gradients",
    "parallelize",
    "param_groups",
    "save_weights",
    "tune",
    "unparallelize",
    "verify",
]
