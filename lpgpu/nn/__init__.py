"""The PyTorch face: modules that are propagated in parallel, and the blocks that have kernels of their own."""

from lpgpu.nn.blocks import Activate, ConvBlock, DenseBlock
from lpgpu.nn.layer_parallel import LayerParallel

__all__ = ["Activate", "ConvBlock", "DenseBlock", "LayerParallel"]
