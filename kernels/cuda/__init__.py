"""CUDA C++ where it does what Triton cannot: one launch whose blocks speak with each other.

A kernel's body is phases over a `Block` (cuda_block.cuh); the tests compile the same phases for the CPU
(host_block.hpp). Cubins lie beside their sources, built with the wheel where nvcc was there; CuPy loads them.
"""
