"""How the FAS kernels cut their work: blocks of a layer's entries, and as many programs as fill a GPU."""

BLOCK = 1024
PROGRAMS = 1024  # whose sums are gathered by one more
WARPS = 4
