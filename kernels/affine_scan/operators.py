"""The affine scan, unchecked; see the package."""

from lpgpu.kernels.affine_scan import reference
from lpgpu.kernels.operation import Operation

affine_scan = Operation(reference.affine_scan, mutates=("v",))
