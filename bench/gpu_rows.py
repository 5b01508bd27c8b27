"""A plugin of pytest: each test's outcome as a line of JSON in the file LPGPU_ROWS, as soon as it is known."""

import json
import os
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Called by pytest for every phase of a test."""
    if report.when != "call" and report.outcome == "passed":
        return
    row = {"item": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
    if report.outcome == "failed":
        row["failed"] = str(report.longrepr)[-1500:]
    with open(os.environ["LPGPU_ROWS"], "a") as file:
        file.write(json.dumps(row) + "\n")
