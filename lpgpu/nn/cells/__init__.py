"""The cells of recurrent networks. One file per kind; `Cell` says what a kind must offer."""

from lpgpu.nn.cells.cell import Cell, Masks
from lpgpu.nn.cells.gru import FrozenGatesGRUCell, GRUCell
from lpgpu.nn.cells.lstm import LSTMCell
from lpgpu.nn.cells.module import ModuleCell

__all__ = ["Cell", "FrozenGatesGRUCell", "GRUCell", "LSTMCell", "Masks", "ModuleCell"]
