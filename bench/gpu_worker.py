"""One worker of `bench/gpu.py`: names of items come in by lines, their rows go out as lines of JSON.

    python bench/gpu_worker.py STAGE
    python bench/gpu_worker.py --list    the names of every stage's items

What fails becomes a row. After a failure that the device does not recover from the worker ends; another replaces it.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

Item = Callable[[], Iterator[dict[str, Any]]]
MODULES = ("gpu_cuda", "gpu_checks", "gpu_serial", "gpu_solver", "gpu_trained", "gpu_profile", "gpu_kernels")
STAGES = ("check", "trained", "serial", "cuda", "solver", "profile", "kernels")


def items(stage: str) -> dict[str, Item]:
    """The items of a stage by name, in order: "check" has those of all modules, the others those of one.

    A module that cannot be imported, or cannot list its items, becomes an item that fails.
    """
    found: dict[str, Item] = {}
    for name in MODULES:
        own = name.removeprefix("gpu_")
        if stage != "check" and own != stage:
            continue
        try:
            found |= importlib.import_module(name).items(check=stage == "check")
        except Exception:
            found[f"{own} (the module)"] = _failing(traceback.format_exc())
    return found


def _failing(reason: str) -> Item:
    def item() -> Iterator[dict[str, Any]]:
        yield {"failed": reason[-3000:]}

    return item


def is_lost() -> bool:
    """Whether the device is of no more use to this process, as after an illegal address."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:
        return True
    return False


def main() -> None:
    """Serve until the input ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what compilers print is not a row

    def say(row: dict[str, Any]) -> None:
        channel.write(json.dumps(row) + "\n")
        channel.flush()

    if sys.argv[1] == "--list":
        return say({stage: list(items(stage)) for stage in STAGES})
    found = items(sys.argv[1])
    say({"started": os.getpid()})
    for line in sys.stdin:
        name = line.rstrip("\n")
        failed = False
        try:
            for row in found[name]():
                say(row)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a failed assertion of pytest's is no Exception
            failed = True
            say({"failed": f"{type(error).__name__}: {error}"[:1500], "traceback": traceback.format_exc()[-2500:]})
        gc.collect()
        with contextlib.suppress(Exception):
            sys.modules["torch"].cuda.empty_cache()  # others work beside
        if failed and is_lost():
            with contextlib.suppress(OSError):
                say({"end": name})
            os._exit(3)
        say({"end": name})


if __name__ == "__main__":
    main()
