"""How each kind of block is propagated. One file per kind; `layers_of` picks."""

from torch import Tensor, nn

from lpgpu.kernels.conv_step import Filter
from lpgpu.nn.blocks import Activate, ConvBlock, DenseBlock
from lpgpu.nn.call import Call
from lpgpu.nn.propagators.conv import ConvLayers
from lpgpu.nn.propagators.dense import DenseLayers
from lpgpu.nn.propagators.functional import general_layers_of
from lpgpu.nn.propagators.layers import Layers, Linearisation
from lpgpu.nn.propagators.pair import AdjointPropagator, ForwardPropagator
from lpgpu.nn.propagators.purity import is_as_written, is_of_kernel

__all__ = ["AdjointPropagator", "ForwardPropagator", "Layers", "Linearisation", "general_layers_of", "layers_of"]

_OF_CONVOLUTIONS = (ConvBlock, nn.ModuleList, nn.Conv2d, Activate)


def layers_of(
    block: nn.Module,
    parameters: dict[str, Tensor],
    x: Tensor,
    scheme: str,
    form: str,
    dt: float,
    call: Call | None = None,
) -> Layers:
    """The layers of `block` with stacked `parameters` [layers, ...], for states like `x`, in one `call` of the network.

    A dense or convolutional block takes its own kernels where these apply: Euler's scheme, no further arguments, no
    lower precision of its own, and states of two (dense) or four dimensions (convolution). A subclass, a block with a
    weight that is made of other parameters (weight_norm), and one with hooks or with a forward or a module that was
    replaced may compute something else, so they take the general path.

    Raises:
        ValueError: when `x` is no state of a dense or convolutional block.
    """
    if isinstance(block, DenseBlock | ConvBlock):
        block.check_state(x)
    call = call or Call()
    of_call = call.arguments.leaves or call.packing is not None or call.block_dtype is not None
    kernel_applies = form == "rhs" and scheme == "euler" and not of_call
    if kernel_applies and type(block) is DenseBlock and x.ndim == 2 and _is_plain(block, parameters):
        return DenseLayers(parameters["linear.weight"], parameters.get("linear.bias"), block.activation.name, dt)
    if kernel_applies and type(block) is ConvBlock and x.ndim == 4:
        convolutions = [f"convolutions.{i}" for i in range(len(block.convolutions))]
        as_written = is_as_written(block, _OF_CONVOLUTIONS) and all(map(is_of_kernel, block.convolutions))
        if as_written and _are_plain(parameters, convolutions):
            filters = [Filter(parameters[f"{name}.weight"], parameters.get(f"{name}.bias")) for name in convolutions]
            return ConvLayers(filters, block.activation.name, dt)
    return general_layers_of(block, parameters, x, scheme, form, dt, call)


def _is_plain(block: DenseBlock, parameters: dict[str, Tensor]) -> bool:
    """Whether the dense kernel computes what the block does."""
    return _are_plain(parameters, ["linear"]) and is_as_written(block, (DenseBlock, nn.Linear, Activate))


def _are_plain(parameters: dict[str, Tensor], modules: list[str]) -> bool:
    """Whether the parameters are nothing but the weights and biases of these modules."""
    return parameters.keys() <= {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
