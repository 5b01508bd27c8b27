"""What every test gets: a fresh printed seed, one thread, a skip that says why without a GPU, no deadlines."""

import os
import secrets

import hypothesis
import pytest
import torch

# The tensors of tests are tiny: on shared cores a second thread made them five times slower, waiting for its turn.
torch.set_num_threads(1)

# Named "ci" so that it replaces hypothesis's own profile of that name, which would draw the same examples every time.
hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    derandomize=False,
    print_blob=True,
    max_examples=int(os.environ.get("LPGPU_TEST_EXAMPLES", "50")),
)
hypothesis.settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device: torch.cuda.is_available() is false")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds torch anew for each test; a failure shows the number, and LPGPU_TEST_SEED brings it back."""
    # secrets, because hypothesis seeds `random` for its own purposes
    value = int(os.environ.get("LPGPU_TEST_SEED") or secrets.randbits(32))
    print(f"LPGPU_TEST_SEED={value}")
    torch.manual_seed(value)
    return value
