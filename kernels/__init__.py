"""The arithmetic of lpgpu: every number is computed in this room, and nowhere else.

One folder per operation, the same files in each: a checked public function, `reference.py` (plain PyTorch: the oracle,
and the path that runs on a CPU) and `fused.py` (Triton). `dispatch` says which runs and why, `precision` how fp32
products are made, `sweep` what a sweep is. This room knows tensors only: no hierarchy, no module, no communicator.
"""
