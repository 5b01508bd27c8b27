"""A GRU against its oracles: torch.nn.GRU, the recurrence as a plain loop, and, for MGRIT, its own serial solve."""

import copy
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lpgpu import GRU, MGRIT, DivergenceWarning, Serial
from lpgpu.nn.propagators.gru import GRULayers
from lpgpu.nn.propagators.layers import Layers
from tests.assertions import assert_close_relative, relative_error
from tests.settings import cycles_to_exactness, exact_solver, seeds, solver_options, with_delta

FEATURES, WIDTH = 3, 4
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}

Run = Callable[..., tuple[Tensor, Tensor]]
Results = dict[str, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny shapes gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def results(run: Run, weights: nn.GRU, x: Tensor, h_0: Tensor | None, loss: dict[str, Tensor]) -> Results:
    """output, h_n and the gradients of Σ ⟨loss[name], name⟩ in input, h_0 and every weight, by name."""
    named = {"input": x.detach().clone().requires_grad_()}
    if h_0 is not None:
        named["h_0"] = h_0.detach().clone().requires_grad_()
    output, h_n = run(named["input"], named.get("h_0"))
    named |= dict(weights.named_parameters())
    came = {"output": output, "h_n": h_n}
    total = sum((weight * came[name]).sum() for name, weight in loss.items())
    gradients = torch.autograd.grad(total, list(named.values()))  # pyright: ignore
    return came | {f"gradient of {name}": grad for name, grad in zip(named, gradients, strict=True)}


def assert_same(
    came: nn.GRU,
    expected: nn.GRU,
    x: Tensor,
    h_0: Tensor | None = None,
    *,
    oracle: Run | None = None,
    sees: tuple[str, ...] = ("output", "h_n"),
    **call: Any,
) -> None:
    """Fails unless both compute the same from `x` and `h_0`, all gradients included, for a random loss on `sees`.

    `oracle`: what is called in place of `expected`, with the weights of that.
    """
    run = partial(came, **call)
    with torch.no_grad():
        shapes = dict(zip(("output", "h_n"), run(x, h_0), strict=True))
    loss = {name: torch.randn_like(shapes[name]) for name in sees}
    right = results(oracle or partial(expected, **call), expected, x, h_0, loss)
    start = sum(map(torch.linalg.vector_norm, loss.values()))
    for name, result in results(run, came, x, h_0, loss).items():
        allowed = TOLERANCE[result.dtype]
        if name == "gradient of h_0":  # it has decayed over the whole sequence, its rounding has not
            allowed *= max(1.0, float(start / torch.linalg.vector_norm(right[name])))
        assert_close_relative(result, right[name], name, tolerance=allowed)


def loop(gru: GRU, x: Tensor, h_0: Tensor | None) -> tuple[Tensor, Tensor]:
    """The recurrence word for word, one step after the other; `x` [T, B, features]."""
    last_states = []
    for layer in range(gru.num_layers):
        directions = []
        for reverse in range(2 if gru.bidirectional else 1):
            suffix = f"l{layer}" + ("_reverse" if reverse else "")
            w_i, w_h = (getattr(gru, f"weight_{kind}_{suffix}").chunk(3) for kind in ("ih", "hh"))
            zeros = [x.new_zeros(gru.hidden_size)] * 3
            b_i, b_h = (getattr(gru, f"bias_{kind}_{suffix}").chunk(3) if gru.bias else zeros for kind in ("ih", "hh"))
            h = x.new_zeros(x.shape[1], gru.hidden_size) if h_0 is None else h_0[len(last_states)]
            states = []
            for x_t in reversed(x) if reverse else x:
                r = torch.sigmoid(x_t @ w_i[0].T + b_i[0] + h @ w_h[0].T + b_h[0])
                z = torch.sigmoid(x_t @ w_i[1].T + b_i[1] + h @ w_h[1].T + b_h[1])
                n = torch.tanh(x_t @ w_i[2].T + b_i[2] + r * (h @ w_h[2].T + b_h[2]))
                d = gru.dt * (1 - z)
                h = (h + d * n) / (1 + d) if gru.formulation == "implicit" else h + d * (n - h)
                states.append(h)
            last_states.append(h)
            directions.append(torch.stack(states[::-1] if reverse else states))
        x = torch.cat(directions, -1)
    return x, torch.stack(last_states)


def classic_twins(**options: Any) -> tuple[GRU, nn.GRU]:
    """The classic GRU propagated serially, and torch.nn.GRU with the same weights."""
    ours = GRU(FEATURES, WIDTH, **options, formulation="classic", solver=Serial())
    theirs = nn.GRU(FEATURES, WIDTH, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def sequences(steps: int, batch: int = 2, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Fresh input [T, B, features]."""
    return torch.randn(steps, batch, FEATURES, dtype=dtype)


def states_like(gru: nn.GRU, batch: int = 2, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """A fresh h_0 of `gru` [layers · directions, B, hidden]."""
    directions = 2 if gru.bidirectional else 1
    return torch.randn(gru.num_layers * directions, batch, gru.hidden_size, dtype=dtype)


architectures = st.fixed_dictionaries(
    {"num_layers": st.integers(1, 3), "bias": st.booleans(), "bidirectional": st.booleans()}
)


class TestClassic:
    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    @given(
        architecture=architectures,
        batch_first=st.booleans(),
        batched=st.booleans(),
        steps=st.integers(1, 40),
        batch=st.integers(1, 3),
        given_h_0=st.booleans(),
        seed=seeds,
    )
    @settings(max_examples=40)
    def test_with_serial_is_torchs_gru(
        self,
        dtype: torch.dtype,
        architecture: dict[str, Any],
        batch_first: bool,
        batched: bool,
        steps: int,
        batch: int,
        given_h_0: bool,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        ours, theirs = classic_twins(**architecture, batch_first=batch_first, dtype=dtype)
        x, h_0 = sequences(steps, batch, dtype=dtype), states_like(ours, batch, dtype=dtype)
        if batch_first:
            x = x.transpose(0, 1)
        if not batched:
            x, h_0 = x.select(0 if batch_first else 1, 0), h_0[:, 0]
        assert_same(ours, theirs, x, h_0 if given_h_0 else None)

    @pytest.mark.parametrize("num_layers", [1, 2, 3])
    @pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
    @pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both directions"])
    @pytest.mark.parametrize("sees", [("output",), ("h_n",)], ids=str)
    def test_with_serial_is_torchs_gru_for_every_architecture_and_loss(
        self, num_layers: int, bias: bool, bidirectional: bool, sees: tuple[str, ...]
    ) -> None:
        ours, theirs = classic_twins(num_layers=num_layers, bias=bias, bidirectional=bidirectional, dtype=torch.float64)
        assert_same(ours, theirs, sequences(13), states_like(ours), sees=sees)

    @pytest.mark.parametrize("scale", [1e-1, 1e-2, 1e-3])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_is_as_accurate_as_torchs_gru_for_small_inputs_too(self, dtype: torch.dtype, scale: float) -> None:
        """Against fp64, with the same rounded weights and inputs: candidates n near zero keep their digits."""
        ours, theirs = classic_twins(bias=False, dtype=dtype)
        x = scale * sequences(20, 8, dtype=dtype)
        exact = copy.deepcopy(theirs).double()(x.double())[0]
        assert relative_error(ours(x)[0], exact) <= 4 * relative_error(theirs(x)[0], exact)

    def test_needs_no_contiguous_input(self) -> None:
        ours, theirs = classic_twins(num_layers=2, dtype=torch.float64)
        x = torch.randn(2, FEATURES, 9, dtype=torch.float64).permute(2, 0, 1)
        h_0 = torch.randn(2, 1, WIDTH, dtype=torch.float64).expand(2, 2, WIDTH)
        assert not x.is_contiguous()
        for one, other in zip(ours(x, h_0), theirs(x, h_0), strict=True):
            assert_close_relative(one, other)


class TestAsADropIn:
    ARCHITECTURES: tuple[dict[str, Any], ...] = tuple(
        {"num_layers": layers, "bias": bias, "bidirectional": bidirectional}
        for layers, bias, bidirectional in itertools.product([1, 3], [True, False], [False, True])
    )

    @pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
    def test_state_dicts_load_both_ways(self, architecture: dict[str, Any]) -> None:
        ours = GRU(FEATURES, WIDTH, **architecture, formulation="classic", solver=Serial(), dtype=torch.float64)
        theirs = nn.GRU(FEATURES, WIDTH, **architecture, dtype=torch.float64)
        assert [(name, t.shape) for name, t in ours.state_dict().items()] == [
            (name, t.shape) for name, t in theirs.state_dict().items()
        ]
        x = sequences(7)
        ours.load_state_dict(theirs.state_dict())
        assert_same(ours, theirs, x)

        fresh = GRU(FEATURES, WIDTH, **architecture, formulation="classic", solver=Serial(), dtype=torch.float64)
        assert relative_error(fresh(x)[0], theirs(x)[0]) > 0.01
        theirs.load_state_dict(fresh.state_dict())
        assert_same(fresh, theirs, x)

    @pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
    def test_the_same_seed_gives_torchs_weights(self, architecture: dict[str, Any], seed: int) -> None:
        torch.manual_seed(seed)
        theirs, drawn_next = nn.GRU(FEATURES, WIDTH, **architecture), torch.rand(3)
        torch.manual_seed(seed)
        ours, also_next = GRU(FEATURES, WIDTH, **architecture), torch.rand(3)
        for (name, one), (expected_name, expected) in zip(
            ours.named_parameters(), theirs.named_parameters(), strict=True
        ):
            assert name == expected_name
            assert torch.equal(one, expected)
        assert torch.equal(drawn_next, also_next)

    def test_arguments_come_in_torchs_order_with_torchs_defaults(self) -> None:
        """Those that torch.nn.GRU documents as positional; all else is by keyword."""

        def described(parameters: list[inspect.Parameter]) -> list[tuple[str, Any]]:
            return [(each.name, each.default) for each in parameters]

        theirs = inspect.signature(nn.RNNBase).parameters.values()  # torch.nn.GRU itself takes *args
        ours = inspect.signature(GRU).parameters.values()
        by_position = [each for each in ours if each.kind is each.POSITIONAL_OR_KEYWORD]
        assert described(by_position) == described([each for each in theirs if each.name != "mode"][:7])
        by_keyword = {each.name: each.default for each in ours if each.kind is each.KEYWORD_ONLY}
        assert by_keyword.pop("proj_size") is None  # which torch.nn.GRU refuses in its own words
        assert by_keyword == {
            "formulation": "classic",
            "dt": 1.0,
            "comm": None,
            "solver": None,
            "device": None,
            "dtype": None,
        }

    def test_arguments_by_position_mean_what_they_mean_to_torch(self) -> None:
        arguments = (3, 5, 2, False, True, 0.25, True)
        ours, theirs = GRU(*arguments), nn.GRU(*arguments)
        for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert isinstance(ours, nn.GRU)

    def test_the_default_is_classic_and_mgrit(self) -> None:
        gru = GRU(FEATURES, WIDTH)
        assert (gru.formulation, gru.dt, gru.solver) == ("classic", 1.0, MGRIT())

    def test_device_and_dtype_reach_the_weights(self) -> None:
        gru = GRU(FEATURES, WIDTH, device="meta", dtype=torch.float64)
        assert {(p.device.type, p.dtype) for p in gru.parameters()} == {("meta", torch.float64)}


class TestAgainstALoop:
    @pytest.mark.parametrize("formulation", ["implicit", "classic"])
    @given(
        architecture=architectures,
        steps=st.integers(1, 30),
        dt=st.floats(0.01, 2.0),
        given_h_0=st.booleans(),
        seed=seeds,
    )
    @settings(max_examples=25)
    def test_serial_is_the_recurrence_for_any_dt(
        self, formulation: Any, architecture: dict[str, Any], steps: int, dt: float, given_h_0: bool, seed: int
    ) -> None:
        torch.manual_seed(seed)
        gru = GRU(
            FEATURES,
            WIDTH,
            **architecture,
            formulation=formulation,
            dt=dt,
            solver=Serial(),
            dtype=torch.float64,
        )
        h_0 = states_like(gru) if given_h_0 else None
        assert_same(gru, gru, sequences(steps), h_0, oracle=partial(loop, gru))

    @pytest.mark.parametrize("dt", [5.0, 100.0])
    def test_implicit_takes_any_large_step(self, dt: float) -> None:
        gru = GRU(FEATURES, WIDTH, 2, formulation="implicit", dt=dt, solver=Serial(), dtype=torch.float64)
        assert_same(gru, gru, sequences(20), states_like(gru), oracle=partial(loop, gru))

    def test_formulations_differ_and_agree_as_dt_vanishes(self) -> None:
        """Both are one ODE: the distance of their steps is of second order in Δt."""
        x = sequences(1)
        implicit = GRU(FEATURES, WIDTH, formulation="implicit", solver=Serial(), dtype=torch.float64)
        h_0 = states_like(implicit)
        distance = []
        for dt in (1e-2, 1e-3):
            classic = GRU(FEATURES, WIDTH, formulation="classic", dt=dt, solver=Serial(), dtype=torch.float64)
            classic.load_state_dict(implicit.state_dict())
            implicit.dt = dt
            distance.append(relative_error(implicit(x, h_0)[1], classic(x, h_0)[1]))
        assert distance[0] == pytest.approx(100 * distance[1], rel=0.1)

    @pytest.mark.parametrize("architecture", [{"num_layers": 2}, {"bidirectional": True, "bias": False}], ids=str)
    def test_gradcheck(self, architecture: dict[str, Any]) -> None:
        gru = GRU(2, 3, **architecture, dt=0.7, solver=Serial(), dtype=torch.float64)
        x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
        h_0 = states_like(gru).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, h_0, *weights: gru(x, h_0), (x, h_0, *gru.parameters()))


recurrent_options = with_delta(solver_options(levels=4), ["none", "diagonal", "auto"])
losses = st.sampled_from([("output",), ("h_n",), ("output", "h_n")])


def serial_twin(gru: GRU) -> GRU:
    """The same weights, propagated exactly."""
    twin = copy.deepcopy(gru)
    twin.solver = Serial()
    return twin


@pytest.mark.filterwarnings("error::lpgpu.DivergenceWarning")
class TestMGRIT:
    @given(
        steps=st.integers(1, 60),
        options=recurrent_options,
        sees=losses,
        formulation=st.sampled_from(["classic", "implicit"]),
        dt=st.floats(0.1, 2.0),
        seed=seeds,
    )
    def test_enough_cycles_are_the_serial_solve(
        self, steps: int, options: dict[str, Any], sees: tuple[str, ...], formulation, dt: float, seed: int
    ) -> None:
        """⌊T/m⌋ cycles with F-relaxation, half of them with FCF, in both directions; whatever Δ does."""
        torch.manual_seed(seed)
        gru = GRU(
            FEATURES, WIDTH, formulation=formulation, dt=dt, solver=exact_solver(steps, options), dtype=torch.float64
        )
        assert_same(gru, serial_twin(gru), sequences(steps), states_like(gru), sees=sees)

    @given(steps=st.integers(2, 30), options=recurrent_options, architecture=architectures, seed=seeds)
    @settings(max_examples=20)
    def test_enough_cycles_are_the_serial_solve_of_every_layer_and_direction(
        self, steps: int, options: dict[str, Any], architecture: dict[str, Any], seed: int
    ) -> None:
        torch.manual_seed(seed)
        solver = exact_solver(steps, options)
        gru = GRU(FEATURES, WIDTH, **architecture, solver=solver, dtype=torch.float64)
        assert_same(gru, serial_twin(gru), sequences(steps), states_like(gru))

    @pytest.mark.parametrize("delta", ["none", "diagonal"])
    @pytest.mark.parametrize("relaxation", ["F", "FCF"])
    def test_one_cycle_too_few_is_not_exact(self, relaxation: Any, delta: Any) -> None:
        """The last cycle is for h_T and λ_0 alone."""
        options: dict[str, Any] = {"levels": 2, "coarsening": 6, "relaxation": relaxation, "delta": delta}
        options |= {"initial_guess": "constant"}
        cycles = cycles_to_exactness(24, options) - 1
        solver = MGRIT(**options, iterations=cycles, adjoint_iterations=cycles)
        gru = GRU(FEATURES, WIDTH, solver=solver, dtype=torch.float64)
        x, h_0 = sequences(24), states_like(gru)
        loss = {"output": torch.randn(24, 2, WIDTH, dtype=torch.float64)}
        serial = serial_twin(gru)
        came, expected = results(gru, gru, x, h_0, loss), results(serial, serial, x, h_0, loss)
        for name in ("h_n", "gradient of h_0"):
            assert relative_error(came[name], expected[name]) > 1e-12, name

    @pytest.mark.parametrize("steps", [1, 2, 3, 7])
    def test_a_sequence_too_short_to_coarsen_is_solved_serially(self, steps: int) -> None:
        gru = GRU(FEATURES, WIDTH, solver=MGRIT(coarsening=4), dtype=torch.float64)
        assert_same(gru, serial_twin(gru), sequences(steps), states_like(gru))
        result = gru.forward_results[0]
        assert result is not None and (result.evaluations, result.sequential_depth) == ((steps,), steps)


@pytest.mark.parametrize("steps", [128, 256])
@pytest.mark.parametrize("options", [{}, {"delta": "none", "initial_guess": "constant"}], ids=["default", "plain"])
def test_the_classic_cell_converges_with_the_implicit_one_on_coarse_grids_and_diverges_with_its_own(
    steps: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same weights, same input: on coarse grids |1 − Δt(1 − z)| exceeds 1, and 1/(1 + Δt(1 − z)) never does.

    Over 60 draws each the implicit error was at most 0.06 and its residual's ratio 0.17, the classic ratio at least 44.
    """
    x = torch.randn(steps, 4, FEATURES, dtype=torch.float64)
    solver = MGRIT(iterations=3, coarse_operator="rediscretised", **options)
    implicit = GRU(FEATURES, 16, formulation="implicit", solver=solver, dtype=torch.float64)
    with torch.no_grad():
        for parameter in implicit.parameters():
            parameter.mul_(2)
    classic = GRU(FEATURES, 16, formulation="classic", solver=solver, dtype=torch.float64)
    classic.load_state_dict(implicit.state_dict())

    for gru in (implicit, classic):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error", DivergenceWarning)
            output, _ = gru(x)
        assert relative_error(output, serial_twin(gru)(x)[0]) < 0.25
        first, *_, last = gru.forward_results[0].residual_norms  # pyright: ignore
        assert last < 0.5 * first

    monkeypatch.setattr(GRULayers, "coarsened", Layers.coarsened)
    with torch.no_grad(), pytest.warns(DivergenceWarning, match="the forward solve diverges"):
        output, _ = classic(x)
    assert output.abs().max() > 1e3
    first, *_, last = classic.forward_results[0].residual_norms  # pyright: ignore
    assert last > 10 * first
    assert serial_twin(classic)(x)[0].abs().max() <= 1


@st.composite
def padded(draw: st.DrawFn, *, most: int = 20) -> tuple[int, list[int]]:
    """T, and lengths in any order, of which not all need reach T."""
    steps = draw(st.integers(1, most))
    return steps, draw(st.lists(st.integers(1, steps), min_size=1, max_size=4))


class TestLengths:
    @given(shape=padded(), architecture=architectures, batch_first=st.booleans(), seed=seeds)
    @settings(max_examples=30)
    def test_classic_and_serial_are_torchs_gru_on_packed_sequences(
        self, shape: tuple[int, list[int]], architecture: dict[str, Any], batch_first: bool, seed: int
    ) -> None:
        torch.manual_seed(seed)
        steps, lengths = shape
        ours, theirs = classic_twins(**architecture, batch_first=batch_first, dtype=torch.float64)

        def packed(x: Tensor, h_0: Tensor | None) -> tuple[Tensor, Tensor]:
            x_packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=False)
            output, h_n = theirs(x_packed, h_0)
            return pad_packed_sequence(output, batch_first, total_length=steps)[0], h_n

        x, h_0 = sequences(steps, len(lengths)), states_like(ours, len(lengths))
        x = x.transpose(0, 1) if batch_first else x
        assert_same(ours, theirs, x, h_0, oracle=packed, lengths=torch.tensor(lengths))

    @pytest.mark.parametrize("formulation", ["implicit", "classic"])
    def test_output_is_zero_beyond_and_h_n_is_the_state_at_the_length(self, formulation: Any) -> None:
        self.check_ends(GRU(FEATURES, WIDTH, formulation=formulation, solver=Serial(), dtype=torch.float64))

    @pytest.mark.parametrize("iterations", [0, 1, 2])
    def test_so_they_are_while_mgrit_is_inexact(self, iterations: int) -> None:
        self.check_ends(GRU(FEATURES, WIDTH, solver=MGRIT(iterations=iterations), dtype=torch.float64))

    def check_ends(self, gru: GRU) -> None:
        lengths = torch.tensor([5, 17, 1, 11])
        output, h_n = gru(sequences(17, 4), states_like(gru, 4), lengths=lengths)
        for row, end in enumerate(lengths.tolist()):
            assert torch.equal(output[end:, row], torch.zeros(17 - end, WIDTH, dtype=torch.float64))
            assert (output[:end, row] != 0).all()
            assert torch.equal(h_n[0, row], output[end - 1, row])

    @given(shape=padded(most=40), options=recurrent_options, bidirectional=st.booleans(), sees=losses, seed=seeds)
    @settings(max_examples=30)
    def test_mgrit_reaches_the_serial_solve(
        self,
        shape: tuple[int, list[int]],
        options: dict[str, Any],
        bidirectional: bool,
        sees: tuple[str, ...],
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        steps, lengths = shape
        solver = exact_solver(steps, options)
        gru = GRU(FEATURES, WIDTH, 2, bidirectional=bidirectional, solver=solver, dtype=torch.float64)
        x, h_0 = sequences(steps, len(lengths)), states_like(gru, len(lengths))
        assert_same(gru, serial_twin(gru), x, h_0, sees=sees, lengths=torch.tensor(lengths))

    @pytest.mark.parametrize("solver", [Serial(), MGRIT(iterations=1)], ids=["Serial", "MGRIT"])
    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_padding_is_neither_read_nor_given_a_gradient(self, solver: Any, bidirectional: bool) -> None:
        """Also while MGRIT is inexact."""
        lengths = torch.tensor([9, 32, 16])
        gru = GRU(FEATURES, WIDTH, 2, bidirectional=bidirectional, solver=solver, dtype=torch.float64)
        x = sequences(32, 3).requires_grad_()
        output, h_n = gru(x, lengths=lengths)
        (output.square().sum() + h_n.square().sum()).backward()
        beyond = torch.arange(32)[:, None] >= lengths
        assert x.grad is not None
        assert (x.grad[beyond] == 0).all() and (x.grad[~beyond] != 0).all()
        other = x.detach().clone()
        other[beyond] = 1e3 * torch.randn_like(other[beyond])
        for one, expected in zip(gru(other, lengths=lengths), (output, h_n), strict=True):
            assert torch.equal(one, expected)

    @pytest.mark.parametrize("lengths", [[6, 6], torch.tensor([6, 6], dtype=torch.int32)], ids=["list", "int32"])
    def test_full_lengths_are_no_lengths(self, lengths: Any) -> None:
        gru = GRU(FEATURES, WIDTH, 2, dtype=torch.float64)
        x = sequences(6)
        for one, expected in zip(gru(x, lengths=lengths), gru(x), strict=True):
            assert torch.equal(one, expected)
