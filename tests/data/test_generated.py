"""Generated sequences: the adding problem's sums, the Lorenz system's signals."""

from typing import Any

import pytest
import torch

from lpgpu.data import DataError, load_adding, load_lorenz
from lpgpu.data.adding import BASELINE
from lpgpu.data.lorenz import RHO, lorenz


class TestAdding:
    def test_labels_are_what_the_marked_numbers_add_to(self) -> None:
        """Whose squared distance from 1 is (1/6 ± 4 · 0.17/√4000)."""
        data = load_adding(31, train_sequences=4000, test_sequences=50)
        x, labels = data.train_inputs, data.train_labels
        assert x.shape == (4000, 31, 2) and data.test_inputs.shape == (50, 31, 2) and data.classes == 0
        assert torch.equal(x[:, :15, 1].sum(1), torch.ones(4000)) and torch.equal(x[:, 15:, 1].sum(1), torch.ones(4000))
        assert x[..., 0].min() >= 0 and x[..., 0].max() <= 1
        torch.testing.assert_close(labels, x.prod(-1).sum(1, keepdim=True))
        assert labels.shape == (4000, 1) and data.test_labels.shape == (50, 1)
        assert abs(float((labels - 1).square().mean()) - BASELINE) < 0.011

    def test_every_step_of_a_half_may_be_marked(self) -> None:
        marks = load_adding(5, train_sequences=500, test_sequences=1).train_inputs[..., 1]
        assert bool(marks.any(0).all())

    def test_seeds(self) -> None:
        first, again, other = (load_adding(8, train_sequences=9, test_sequences=9, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first.train_inputs, again.train_inputs)
        assert not torch.equal(first.train_inputs, other.train_inputs)
        assert not torch.equal(first.train_inputs, first.test_inputs)

    @pytest.mark.parametrize(("options", "words"), [({"steps": 1}, "steps is 1"), ({"train_sequences": 0}, "0 and")])
    def test_bad_input(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            load_adding(**{"steps": 4, **options})

    def test_more_than_the_memory_holds(self) -> None:
        with pytest.raises(DataError, match=r"10000 sequences of 100000000000 steps take 7\.45e\+06 GiB, more than"):
            load_adding(10**11, train_sequences=10**4)


class TestLorenz:
    def test_its_right_hand_side_vanishes_at_the_fixed_points(self) -> None:
        """(±√(β(ρ−1)), ±√(β(ρ−1)), ρ−1), and zero."""
        rho = torch.tensor(RHO, dtype=torch.float64)
        side = (8 / 3 * (rho - 1)).sqrt()
        for sign in (-1, 0, 1):
            u = torch.stack([sign * side, sign * side, sign**2 * (rho - 1)], -1)
            assert lorenz(u, rho).abs().max() < 1e-12

    def test_signals_are_solutions_at_the_times_asked_for(self) -> None:
        """Half the step, twice the steps: the same signal until chaos has the rounding of the rule grow."""
        coarse = load_lorenz(6, dt=0.02, train_sequences=8, test_sequences=4)
        fine = load_lorenz(12, dt=0.01, train_sequences=8, test_sequences=4)
        assert coarse.train_inputs.shape == (8, 6, 1) and coarse.train_inputs.dtype == torch.float32
        assert coarse.train_labels.tolist() == [0, 1, 2, 3] * 2
        jumps = coarse.train_inputs.diff(dim=1).abs()
        assert 0 < float(jumps.max()) < 1 and fine.train_inputs.diff(dim=1).abs().max() < jumps.max()

    def test_they_are_on_the_attractor_and_wider_for_a_greater_rho(self) -> None:
        """⟨x²⟩ = ⟨x y⟩ = β⟨z⟩ on the attractor, and ⟨z⟩ grows with ρ; x swings between both wings."""
        data = load_lorenz(1500, train_sequences=32, test_sequences=4)
        x = data.train_inputs[..., 0] * 10
        squares = torch.stack([x[data.train_labels == label].square().mean() for label in range(4)])
        assert bool((squares.diff() > 0).all())
        expected = 8 / 3 * (torch.tensor(RHO) - 4.4)  # ⟨z⟩ of 128 signals of 60 time units: 21.6, 25.5, 29.6, 33.6
        assert (squares / expected - 1).abs().max() < 0.1
        assert bool(((x > 1).any(1) & (x < -1).any(1)).all())

    def test_seeds(self) -> None:
        first, again, other = (load_lorenz(4, train_sequences=4, test_sequences=4, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first.train_inputs, again.train_inputs)
        assert not torch.equal(first.train_inputs, other.train_inputs)

    @pytest.mark.parametrize(
        ("options", "words"), [({"steps": 0}, "0 steps"), ({"dt": 0.1}, "dt is 0.1"), ({"test_sequences": 0}, "and 0")]
    )
    def test_bad_input(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            load_lorenz(**{"steps": 4, **options})
