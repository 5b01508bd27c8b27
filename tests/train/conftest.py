"""Fixtures that the tests of training share."""

import pytest


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than tiny runs."""
    monkeypatch.setattr("lpgpu.train.loop.training.draw_plots", lambda folder: [])
