"""Starts the ranks of a torch.distributed job as torchrun does, from one process that has already imported what they
need: python -m tests.forked RANKS MODULE ARGUMENTS …

Imports are most of what a small job under torchrun takes. Rank 0 keeps the store here, and no launcher's agent.
"""

import importlib
import os
import runpy
import signal
import socket
import sys
import time

PATIENCE = 5.0  # seconds from being asked to end to being killed


def main() -> None:
    """Fork the ranks and wait for them; a rank returns from here only when its module has ended."""
    ranks, module = int(sys.argv[1]), sys.argv[2]
    for needed in ("lpgpu.train", "pytest") if "pytest" in sys.argv else ("lpgpu",):
        importlib.import_module(needed)
    environment = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children: set[int] = set()
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            sys.argv = sys.argv[2:]
            runpy.run_module(module, run_name="__main__")
            return
        children.add(child)
    sys.exit(wait_for(children))


def wait_for(children: set[int]) -> int:
    """Until all have ended. Those that are left when one fails, or at Ctrl-C, are ended."""
    status = 0
    try:
        while children and status == 0:
            child, ended = os.wait()
            children.discard(child)
            status = os.waitstatus_to_exitcode(ended)
    except KeyboardInterrupt:
        status = 130
    for how in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + PATIENCE
        for child in children:
            os.kill(child, how)
        while children and time.monotonic() < until:
            children -= {child for child in children if os.waitpid(child, os.WNOHANG)[0]}
            time.sleep(0.01)
    return status if status >= 0 else 128 - status


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
