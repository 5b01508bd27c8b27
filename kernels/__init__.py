"""The arithmetic of lpgpu: every number is computed in this room, and nowhere else.

One folder per operation. Each holds a checked public function and `reference.py`, plain PyTorch: the oracle, and the
path that runs on a CPU. This room knows tensors only: no hierarchy, no module, no communicator.
"""
