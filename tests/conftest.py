"""What every test gets: a seed of its own, one thread, a skip that says why without a GPU, no deadlines."""

import importlib.util
import os
import secrets
import zlib

import pytest
import torch

from tests import session

# The tensors of tests are tiny: on shared cores a second thread made them five times slower, waiting for its turn.
torch.set_num_threads(1)

SEED = os.environ.get("LPGPU_TEST_SEED") or None
"""None: every test draws what it drew the last time; "fresh": something new; a number: what that number gives."""

if importlib.util.find_spec("hypothesis") is not None:  # the tests that need a GPU do without
    import hypothesis

    # Named "ci" so that it replaces hypothesis's own profile of that name.
    hypothesis.settings.register_profile(
        "ci",
        deadline=None,
        derandomize=SEED is None,
        print_blob=True,
        max_examples=int(os.environ.get("LPGPU_TEST_EXAMPLES", "50")),
    )
    hypothesis.settings.load_profile("ci")


RANKS = int(os.environ.get("LPGPU_RANKS", "0"))
"""How many ranks this session is one of, as tests.launcher says; 0: an ordinary session, without ranks."""

collect_ignore_glob = [] if RANKS else ["*/test_ranks_*.py"]  # of several ranks; test_on_ranks.py starts them
if RANKS:  # all ranks run the same examples: none is remembered, or looked for after a failure of one rank's own
    hypothesis.settings.register_profile(
        "ranks", hypothesis.settings.get_profile("ci"), database=None, phases=[hypothesis.Phase.generate]
    )
    hypothesis.settings.load_profile("ranks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    had_their_turn = session.started()
    here = [item for item in items if _belongs(item) and item.nodeid not in had_their_turn]
    config.hook.pytest_deselected(items=[item for item in items if item not in here])
    items[:] = here
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device: torch.cuda.is_available() is false")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


def _belongs(item: pytest.Item) -> bool:
    """Whether a test is one of a session on so many ranks."""
    marker = item.get_closest_marker("mpi")
    return RANKS in marker.args if marker else RANKS == 0


def pytest_runtest_logstart(nodeid: str) -> None:
    session.note(test=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that fails on one rank would leave the others waiting: it ends the job."""
    if report.failed or report.when == "call" or report.skipped:
        session.note(test=report.nodeid, outcome=report.outcome)
    if RANKS > 1 and report.failed:
        from lpgpu.comm.launcher import launched_rank
        from tests.rank import end_the_job

        text = "\n".join([report.longreprtext, *(content for _, content in report.sections)])
        os.write(2, f"\nFAILED {report.nodeid} on rank {launched_rank()} of {RANKS}\n{text}\n".encode())
        end_the_job()


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Seeds torch for each test, by its name unless LPGPU_TEST_SEED says otherwise; a failure shows the number."""
    # secrets, because hypothesis seeds `random` for its own purposes
    by_name = zlib.crc32(request.node.nodeid.encode())
    value = by_name if SEED is None else secrets.randbits(32) if SEED == "fresh" else int(SEED)
    print(f"LPGPU_TEST_SEED={value}")
    torch.manual_seed(value)
    return value
