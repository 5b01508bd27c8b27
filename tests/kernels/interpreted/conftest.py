"""Tests of fused kernels in Triton's interpreter: collected only in a process that was started for them."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
