"""The command line: `lpgpu train RECIPE`, `lpgpu compare RECIPE`, `lpgpu info`, `lpgpu plot RUN`."""

from lpgpu.cli.app import main

__all__ = ["main"]
