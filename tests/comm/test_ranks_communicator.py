"""The communicators of several ranks. Run by tests/test_on_ranks.py."""

import copy
import pickle
import threading
import time

import pytest
import torch
from torch import nn

from lpgpu import LayerParallel, average_gradients
from lpgpu.comm import SingleProcess, as_communicator, failure
from lpgpu.comm.choice import split
from lpgpu.comm.diagnostics import describe_ranks
from lpgpu.comm.launcher import launched_by
from lpgpu.comm.process_grid import ProcessGrid, local_rank
from tests.assertions import assert_mentions
from tests.nn.ranks import COMM, RANK, SIZE

pytestmark = pytest.mark.mpi(2, 3, 4)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def communicator():
    return as_communicator(COMM)


def test_a_communicator_is_duplicated_once() -> None:
    assert as_communicator(COMM) is as_communicator(COMM)
    assert copy.deepcopy(communicator()) is communicator()


def test_one_rank_needs_no_messages() -> None:
    assert isinstance(as_communicator(split(COMM, RANK, 0)), SingleProcess)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (700, 300)], ids=str)
def test_states_go_round(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Several, the large ones beyond what MPI sends unasked; not contiguous; the sender may change its own at once."""
    ours, after, before = communicator(), (RANK + 1) % SIZE, (RANK - 1) % SIZE
    like = torch.empty(shape, dtype=dtype)
    arrivals = [ours.receive(like, before) for _ in range(3)]
    state = torch.empty((*shape, 2), dtype=dtype)[..., 0]
    for message in range(3):
        state.fill_(10 * RANK + message)
        ours.send(state, after)
    for message, arrival in enumerate(arrivals):
        came = arrival.wait()
        assert came.shape == like.shape and came.dtype == dtype
        assert (came == 10 * before + message).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_and_broadcasts(dtype: torch.dtype) -> None:
    ours = communicator()
    value = torch.full((2, 3), RANK + 0.5, dtype=dtype)
    total = ours.sum(value.T)
    assert total.dtype == dtype and (total == sum(rank + 0.5 for rank in range(SIZE))).all()
    for root in range(SIZE):
        assert (ours.broadcast(value, root) == root + 0.5).all()
    assert (value == RANK + 0.5).all()


def test_the_opposite_order() -> None:
    ours = communicator().reversed()
    assert ours.rank == SIZE - 1 - RANK
    assert ours.allgather(RANK) == list(range(SIZE))[::-1]
    assert float(ours.broadcast(torch.tensor(float(RANK)), 0)) == SIZE - 1
    arrival = ours.receive(torch.empty(()), ours.rank - 1) if ours.rank else None
    if ours.rank + 1 < SIZE:
        ours.send(torch.tensor(float(RANK)), ours.rank + 1)
    assert arrival is None or float(arrival.wait()) == RANK + 1
    assert ours.reversed() is communicator()


def test_agreeing() -> None:
    ours = communicator()
    ours.agree(lambda: None, lambda: {"what": 1})
    with pytest.raises(ValueError) as caught:
        ours.agree(lambda: None, lambda: {"what": 1, "colour": RANK})
    assert_mentions(caught.value, ["colour is 0 on rank 0, 1 on rank 1"])

    def check() -> None:
        if RANK == 1:
            raise KeyError("missing")

    with pytest.raises(KeyError if RANK == 1 else ValueError, match="missing") as failed:
        ours.agree(check, dict)
    assert RANK == 1 or "rank 1: KeyError" in str(failed.value)


def test_a_pickled_communicator_says_what_to_do() -> None:
    left = pickle.loads(pickle.dumps(communicator()))
    assert (left.rank, left.size) == (RANK, SIZE)
    with pytest.raises(RuntimeError, match="full_state_dict"):
        left.sum(torch.zeros(1))


def test_local_ranks_are_counted_where_no_launcher_says_them() -> None:
    assert local_rank(COMM, {}) == RANK
    assert local_rank(COMM, {"SLURM_LOCALID": "7"}) == 7


def test_ranks_that_are_in_different_numbers_of_groups() -> None:
    """Those of the first rows make one more; all can split all again, in other rows."""
    split(COMM, 0 if RANK < SIZE - 1 else 1, RANK)
    again = split(COMM, 0 if RANK == 0 else 1, RANK)
    assert as_communicator(again).allgather(RANK) == ([0] if RANK == 0 else list(range(1, SIZE)))


class TestProcessGrid:
    @pytest.mark.parametrize("layer_ranks", [rank for rank in range(1, SIZE + 1) if SIZE % rank == 0])
    def test_rows_share_layers_and_columns_data(self, layer_ranks: int) -> None:
        grid = ProcessGrid(COMM, layer_ranks=layer_ranks)
        assert grid.layer_ranks * grid.data_ranks == SIZE
        assert grid.data_rank * grid.layer_ranks + grid.layer_rank == RANK
        first = grid.data_rank * layer_ranks
        assert as_communicator(grid.layer_comm).allgather(RANK) == list(range(first, first + layer_ranks))
        assert as_communicator(grid.data_comm).allgather(RANK) == list(range(grid.layer_rank, SIZE, layer_ranks))
        assert grid.is_root == (RANK == 0)
        assert float(grid.data_communicator.sum(torch.ones(()))) == grid.data_ranks
        assert float(grid.communicator.sum(torch.ones(()))) == SIZE
        assert grid.device.type == ("cuda" if torch.cuda.is_available() else "cpu")

    @pytest.mark.parametrize("layer_ranks", [1, SIZE])
    def test_is_freed_once_and_used_no_more(self, layer_ranks: int) -> None:
        with ProcessGrid(COMM, layer_ranks=layer_ranks) as grid:
            net = LayerParallel(grid.layer_comm, lambda: nn.Linear(2, 2), 3, 1.0)
            net(torch.ones(1, 2)).sum().backward()
            average_gradients(net, grid.data_comm)
            comms, data_communicator = (grid.layer_comm, grid.data_comm), grid.data_communicator
        grid.free()
        for use in (lambda: grid.layer_comm, lambda: grid.data_comm):
            with pytest.raises(RuntimeError, match=r"this ProcessGrid was freed"):
                use()
        for comm in comms:
            with pytest.raises(ValueError, match=r"COMM_NULL|destroyed"):
                as_communicator(comm)
        if grid.layer_ranks > 1:
            with pytest.raises(RuntimeError, match=r"the communicator of this network was freed"):
                net(torch.ones(1, 2))
        if grid.data_ranks > 1:
            with pytest.raises(RuntimeError, match=r"was freed"):
                data_communicator.sum(torch.ones(()))
        assert float(grid.communicator.sum(torch.ones(()))) == SIZE

    def test_many_grids_one_after_the_other(self) -> None:
        """Each leaves neither a thread nor anything to say at the end."""
        kept = threading.active_count(), len(failure._at_exit)
        for _ in range(5):
            with ProcessGrid(COMM, layer_ranks=SIZE) as grid:
                assert as_communicator(grid.layer_comm).allgather(RANK) == list(range(SIZE))
        assert len(failure._at_exit) == kept[1]
        deadline = time.monotonic() + 10
        while threading.active_count() > kept[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= kept[0]

    def test_is_not_freed_by_an_error_that_other_ranks_may_not_have(self) -> None:
        with pytest.raises(KeyError), ProcessGrid(COMM, layer_ranks=SIZE) as grid:
            raise KeyError
        assert as_communicator(grid.layer_comm).allgather(RANK) == list(range(SIZE))
        grid.free()

    @pytest.mark.parametrize("layer_ranks", [0, SIZE + 1, 1.0, True])
    def test_a_grid_has_whole_rows(self, layer_ranks) -> None:
        with pytest.raises(ValueError, match="layer_ranks is"):
            ProcessGrid(COMM, layer_ranks=layer_ranks)


def test_info_is_one_ranks_to_give() -> None:
    found = describe_ranks()
    assert (found is None) == (RANK > 0)
    if found:
        assert found["ranks"].startswith(f"{SIZE}: 0 on ")
        assert "gloo" in found["distributed"]
        assert_mentions(found["MPI"], ["thread level multiple" if launched_by() == "MPI" else "torchrun"])
    if found and launched_by() == "MPI":
        assert_mentions(found["CUDA-aware"], ["no"] if not torch.cuda.is_available() else ["support"])
