"""The PyTorch face: modules that are propagated in parallel, and the blocks that have kernels of their own."""

from lpgpu.nn.arguments import PerLayer
from lpgpu.nn.blocks import Activate, ConvBlock, DenseBlock
from lpgpu.nn.gru import GRU
from lpgpu.nn.layer_parallel import LayerParallel
from lpgpu.nn.lstm import LSTM
from lpgpu.nn.parallelize import parallelize, unparallelize
from lpgpu.nn.recurrent import Recurrent
from lpgpu.nn.resnet import resnet_ode

__all__ = [
    "GRU",
    "LSTM",
    "Activate",
    "ConvBlock",
    "DenseBlock",
    "LayerParallel",
    "PerLayer",
    "Recurrent",
    "parallelize",
    "resnet_ode",
    "unparallelize",
]
