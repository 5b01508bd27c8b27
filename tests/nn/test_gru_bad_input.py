"""What makes no GRU or no call is refused before any work: where torch.nn.GRU refuses it, and as clearly at least."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from lpgpu import GRU, MGRIT, DivergenceError, DivergenceWarning, Serial
from lpgpu.nn.layout import Layout
from tests.assertions import assert_mentions

FEATURES, WIDTH, STEPS, BATCH = 3, 4, 12, 2


def network(num_layers: int = 1, **options: Any) -> GRU:
    return GRU(FEATURES, WIDTH, num_layers, dtype=torch.float64, **options)


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*(shape or (STEPS, BATCH, FEATURES)), dtype=dtype)


ARGUMENTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown formulation": ({"formulation": "explicit"}, ["formulation is 'explicit'", "'implicit', 'classic'"]),
    "no formulation": ({"formulation": None}, ["formulation is None", "'implicit', 'classic'"]),
    "dt zero": ({"dt": 0.0}, ["dt is 0.0", "> 0"]),
    "dt negative": ({"dt": -1}, ["dt is -1", "> 0"]),
    "dt infinite": ({"dt": math.inf}, ["dt is inf", "finite"]),
    "dt undefined": ({"dt": math.nan}, ["dt is nan", "finite"]),
    "dt in words": ({"dt": "1"}, ["dt is '1'", "number"]),
    "dt of True": ({"dt": True}, ["dt is True", "number"]),
    "no dt": ({"dt": None}, ["dt is None", "number"]),
    "solver in words": ({"solver": "mgrit"}, ["solver is 'mgrit'", "MGRIT(...)", "Serial()"]),
    "solver as a class": ({"solver": Serial}, ["solver is", "Serial()"]),
    "comm of some other kind": ({"comm": "world"}, ["comm is str", "None", "mpi4py"]),
    "no features": ({"input_size": 0}, ["input_size"]),
    "no width": ({"hidden_size": 0}, ["hidden_size"]),
    "fractional width": ({"hidden_size": 4.0}, ["hidden_size", "int"]),
    "no layers": ({"num_layers": 0}, ["num_layers"]),
    "dropout above one": ({"dropout": 2.0}, ["dropout"]),
    "projections": ({"proj_size": 2}, ["proj_size"]),
}


class TestArguments:
    @pytest.mark.parametrize("case", ARGUMENTS)
    def test_are_refused(self, case: str) -> None:
        wrong, words = ARGUMENTS[case]
        with pytest.raises((ValueError, TypeError)) as caught:
            GRU(**({"input_size": FEATURES, "hidden_size": WIDTH} | wrong))
        assert_mentions(caught.value, words)

    @pytest.mark.parametrize("solver", [None, "serial", MGRIT, 3])
    def test_a_solver_is_refused_at_its_assignment(self, solver: Any) -> None:
        gru = network()
        with pytest.raises(TypeError, match="solver is "):
            gru.solver = solver
        assert gru.solver == MGRIT()

    @pytest.mark.parametrize("arguments", [{"proj_size": 2}, {"dropout": 2.0}, {"num_layers": 0}, {"hidden_size": 4.0}])
    def test_torchs_are_refused_in_its_words(self, arguments: dict[str, Any]) -> None:
        arguments = {"input_size": FEATURES, "hidden_size": WIDTH} | arguments
        with pytest.raises((ValueError, TypeError)) as of_torch:
            nn.GRU(**arguments)
        with pytest.raises(of_torch.type) as caught:
            GRU(**arguments)
        assert str(caught.value) == str(of_torch.value)

    def test_options_are_not_positional(self) -> None:
        with pytest.raises(TypeError):
            GRU(FEATURES, WIDTH, 1, True, False, 0.0, False, "classic")  # pyright: ignore


CALLS: dict[str, tuple[Any, Any, list[str]]] = {
    "fewer features": (inputs(STEPS, BATCH, 2), None, ["Expected 3, got 2"]),
    "more features": (inputs(STEPS, BATCH, 5), None, ["Expected 3, got 5"]),
    "fewer features, unbatched": (inputs(STEPS, 2), None, ["Expected 3, got 2"]),
    "one dimension": (inputs(FEATURES), None, ["2", "3"]),
    "four dimensions": (inputs(1, STEPS, BATCH, FEATURES), None, ["2", "3"]),
    "no steps": (inputs(0, BATCH, FEATURES), None, []),
    "fp32 input": (inputs(dtype=torch.float32), None, ["torch.float32", "torch.float64", ".to("]),
    "integers": (torch.ones(STEPS, BATCH, FEATURES, dtype=torch.int64), None, ["torch.int64", "torch.float64"]),
    "fp32 hx": (inputs(), inputs(1, BATCH, WIDTH, dtype=torch.float32), []),
    "hx of more layers": (inputs(), inputs(2, BATCH, WIDTH), ["(1, 2, 4)", "[2, 2, 4]"]),
    "hx of another batch": (inputs(), inputs(1, 3, WIDTH), ["(1, 2, 4)", "[1, 3, 4]"]),
    "hx of another width": (inputs(), inputs(1, BATCH, 5), ["(1, 2, 4)", "[1, 2, 5]"]),
    "hx unbatched": (inputs(), inputs(1, WIDTH), ["hx"]),
    "hx batched": (inputs(STEPS, FEATURES), inputs(1, BATCH, WIDTH), ["hx"]),
    "hx of one dimension": (inputs(), inputs(WIDTH), ["hx"]),
}


@pytest.mark.parametrize("case", CALLS)
def test_what_torchs_gru_refuses_is_refused_before_any_work(case: str) -> None:
    x, hx, words = CALLS[case]
    gru, theirs = network(), nn.GRU(FEATURES, WIDTH, dtype=torch.float64)
    with pytest.raises((ValueError, RuntimeError)) as of_torch:
        theirs(x, hx)
    with pytest.raises(of_torch.type) as caught:
        gru(x, hx)
    assert caught.type is of_torch.type
    assert_mentions(caught.value, words)
    assert gru.forward_results == [None]


@pytest.mark.parametrize(
    ("x", "hx", "words"),
    [
        ([[0.0] * FEATURES], None, ["input is list", "tensor"]),
        (None, None, ["input is NoneType", "tensor"]),
        (inputs(), [[0.0] * WIDTH], ["hx", "list", "tensor"]),
        (inputs(), (inputs(1, BATCH, WIDTH), inputs(1, BATCH, WIDTH)), ["hx", "tuple", "tensor"]),
    ],
    ids=["a list", "nothing", "hx of a list", "hx of an LSTM"],
)
def test_other_things_than_tensors_are_refused(x: Any, hx: Any, words: list[str]) -> None:
    with pytest.raises(TypeError) as caught:
        network()(x, hx)
    assert_mentions(caught.value, words)


UNUSUAL: dict[str, tuple[Any, list[str]]] = {
    "without values": (inputs().to("meta"), ["input is on meta", "no values"]),
    "sparse": (inputs().to_sparse(), ["input is torch.sparse_coo", ".to_dense()"]),
    "nested": (
        torch.nested.nested_tensor([inputs(2, 3), inputs(4, 3)]),
        ["input is nested", ".to_padded_tensor("],
    ),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_tensors_are_refused(case: str) -> None:
    x, words = UNUSUAL[case]
    gru = network()
    with pytest.raises(ValueError) as caught:
        gru(x)
    assert_mentions(caught.value, words)
    assert gru.forward_results == [None]


def test_unusual_states_are_refused() -> None:
    with pytest.raises(ValueError, match="hx is on meta, where tensors have no values"):
        network()(inputs(), inputs(1, BATCH, WIDTH).to("meta"))


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"network is on meta, where tensors have no values.*to_empty\(device="):
        network().to("meta")(inputs())


def test_transforms_of_torch_func_are_refused() -> None:
    gru = network()
    with pytest.raises(NotImplementedError, match=r"inside a transform of torch\.func .*batch of input.*backward"):
        torch.vmap(gru)(inputs(2, STEPS, BATCH, FEATURES))
    assert gru.forward_results == [None]


def test_with_batch_first_the_batch_is_that_of_the_first_dimension() -> None:
    gru = network(batch_first=True)
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(1, 12, 4\), got \[1, 2, 4\]"):
        gru(inputs(), inputs(1, BATCH, WIDTH))
    assert gru(inputs(), inputs(1, STEPS, WIDTH))[0].shape == (STEPS, BATCH, WIDTH)


class TestPackedSequences:
    def test_lengths_of_their_own_are_refused(self) -> None:
        packed = pack_padded_sequence(inputs(), torch.tensor([STEPS, 5]))
        with pytest.raises(ValueError, match="lengths came with a PackedSequence, which has its own"):
            network()(packed, lengths=torch.tensor([STEPS, 5]))

    def test_of_which_ranks_would_have_parts_are_refused(self) -> None:
        _, _, layout = Layout.taken(pack_padded_sequence(inputs(), torch.tensor([STEPS, 5])), None, batch_first=False)
        with pytest.raises(ValueError, match=r"PackedSequence, but 3 ranks share the sequence; pass .*lengths="):
            layout.check(3)

    @pytest.mark.parametrize(
        ("hx", "words"),
        [(inputs(1, WIDTH), ["dimensions"]), (inputs(1, 3, WIDTH), ["Expected hidden size (1, 2, 4), got [1, 3, 4]"])],
        ids=["unbatched", "another batch"],
    )
    def test_states_that_do_not_fit_are_refused_as_by_torch(self, hx: Tensor, words: list[str]) -> None:
        packed = pack_padded_sequence(inputs(), torch.tensor([STEPS, 5]))
        with pytest.raises(RuntimeError):
            nn.GRU(FEATURES, WIDTH, dtype=torch.float64)(packed, hx)
        with pytest.raises(RuntimeError) as caught:
            network()(packed, hx)
        assert_mentions(caught.value, words)


LENGTHS: dict[str, tuple[Any, list[str]]] = {
    "zero": (torch.tensor([0, 5]), ["lengths", "from 0 to 5", "1 to 12"]),
    "negative": (torch.tensor([5, -1]), ["lengths", "from -1 to 5", "1 to 12"]),
    "too long": (torch.tensor([5, 13]), ["lengths", "from 5 to 13", "1 to 12"]),
    "one for all": (torch.tensor(5), ["lengths", "()", "(2,)"]),
    "a number": (5, ["lengths", "()", "(2,)"]),
    "of another batch": (torch.tensor([5, 5, 5]), ["lengths", "(3,)", "(2,)"]),
    "two dimensions": (torch.tensor([[5, 5]]), ["lengths", "(1, 2)", "(2,)"]),
    "fractional": (torch.tensor([5.0, 12.0]), ["lengths", "torch.float32", "integers"]),
    "a mask": (torch.tensor([True, True]), ["lengths", "torch.bool", "integers"]),
    "complex": (torch.tensor([5j, 1]), ["lengths", "torch.complex64", "integers"]),
}


class TestLengths:
    @pytest.mark.parametrize("case", LENGTHS)
    def test_that_do_not_fit_are_refused_before_any_work(self, case: str) -> None:
        lengths, words = LENGTHS[case]
        gru = network()
        with pytest.raises((ValueError, TypeError)) as caught:
            gru(inputs(), lengths=lengths)
        assert_mentions(caught.value, words)
        assert gru.forward_results == [None]

    def test_are_by_keyword(self) -> None:
        with pytest.raises(TypeError, match="positional"):
            network()(inputs(), None, torch.tensor([5, 5]))  # pyright: ignore


class TestNonFinite:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("batched", [True, False])
    def test_input_is_refused_before_any_work(self, value: float, batched: bool) -> None:
        x = inputs() if batched else inputs(STEPS, FEATURES)
        x[7, ..., 1] = value
        gru = network()
        with pytest.raises(ValueError, match="input has entries that are NaN or infinite; expected finite numbers"):
            gru(x)
        assert gru.forward_results == [None]

    @pytest.mark.parametrize("solver", [MGRIT(), Serial()], ids=["MGRIT", "Serial"])
    def test_states_are_refused_and_weights_reported(self, solver: MGRIT | Serial) -> None:
        gru = network(solver=solver)
        hx = inputs(1, BATCH, WIDTH)
        hx[0, 0, 0] = math.nan
        with pytest.raises(ValueError, match="hx has entries that are NaN or infinite"):
            gru(inputs(), hx)
        with torch.no_grad():
            gru.weight_hh_l0[0, 0] = math.nan
        with pytest.warns(DivergenceWarning, match="forward solve has non-finite states"):
            gru(inputs())

    def test_gradients_are_reported(self) -> None:
        output, _ = network()(inputs())
        with pytest.warns(DivergenceWarning, match="adjoint solve has non-finite states"):
            (output.sum() * math.inf).backward()

    def test_on_divergence_may_raise(self) -> None:
        gru = network(solver=MGRIT(on_divergence="raise"))
        with torch.no_grad():
            gru.weight_hh_l0[0, 0] = math.nan
        with pytest.raises(DivergenceError, match="forward solve"):
            gru(inputs())

    def test_large_but_finite_input_saturates(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            output, _ = network(2, solver=Serial())(1e30 * inputs())
        assert output.abs().max() <= 1
