"""Tests on a GPU that is not there: collected only in a process that was started for them, with a guard to load."""

import ctypes
import os

import torch

collect_ignore_glob = [] if "LPGPU_GUARD" in os.environ else ["test_*.py"]

if os.environ.get("LPGPU_GUARD") and torch.version.cuda is None:
    ctypes.CDLL(os.environ["LPGPU_GUARD"])
