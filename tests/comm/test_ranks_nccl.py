"""The link between GPUs, with gloo in NCCL's place: which messages go through which group, and in what order.

Run by tests/test_on_ranks.py.
"""

import pytest
import torch
import torch.distributed as dist

from lpgpu.comm import as_communicator, nccl
from lpgpu.comm.groups import new_groups
from lpgpu.comm.launcher import launched_by
from lpgpu.comm.nccl import DeviceLink, NoDeviceLink, open_device_link
from tests.nn.ranks import COMM, RANK, SIZE

pytestmark = [
    pytest.mark.mpi(2, 3, 4),
    pytest.mark.skipif(launched_by() == "MPI", reason="of process groups of torch.distributed"),
]


@pytest.fixture(scope="module")
def link() -> DeviceLink:
    groups = [new_groups([range(SIZE)], backend="gloo") for _ in range(2)]
    link = DeviceLink(*groups, torch.device("cpu"))
    link.connect()
    return link


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_neighbours_may_both_receive_before_they_send(link: DeviceLink, dtype: torch.dtype) -> None:
    neighbours = [rank for rank in (RANK - 1, RANK + 1) if 0 <= rank < SIZE]
    arrivals = {rank: [link.receive(torch.empty(3, dtype=dtype), rank) for _ in range(2)] for rank in neighbours}
    state = torch.empty(3, 2, dtype=dtype)[:, 0]
    for message in range(2):
        for rank in neighbours:
            state.fill_(10 * RANK + message)
            link.send(state, rank)
    for rank in neighbours:
        for message, arrival in enumerate(arrivals[rank]):
            assert arrival.wait().tolist() == [10 * rank + message] * 3


def test_messages_up_and_down_share_no_group(link: DeviceLink) -> None:
    assert link._towards(RANK + 1) is not link._towards(RANK - 1)


def test_sums_and_broadcasts(link: DeviceLink) -> None:
    value = torch.full((2, 3), float(RANK))
    first, second = link.begin_sum(value.T), link.begin_sum(value + 1)
    total = sum(range(SIZE))
    assert (first.wait() == total).all() and (second.wait() == total + SIZE).all()
    for root in range(SIZE):
        assert (link.broadcast(value.bfloat16(), root) == root).all()
    assert (value == RANK).all()


def test_a_state_elsewhere_says_what_to_do(link: DeviceLink) -> None:
    with pytest.raises(ValueError, match=r"on meta, but this rank's device was cpu .*set_device"):
        link.send(torch.empty(1, device="meta"), 0)


class TestWithoutALink:
    @staticmethod
    def refusal(monkeypatch: pytest.MonkeyPatch, *, backends: str = "cuda:nccl", uuid: str, bound: bool = False) -> str:
        """On a machine with a GPU."""

        class Properties:
            pass

        Properties.uuid = uuid
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
        monkeypatch.setattr(dist, "get_backend_config", lambda group: backends)
        if bound:
            monkeypatch.setattr(type(COMM), "bound_device_id", torch.device("cpu"))
        link = open_device_link(COMM, [range(SIZE - bound)], as_communicator(COMM).allgather)
        assert isinstance(link, NoDeviceLink)
        with pytest.raises(RuntimeError, match="no link between GPUs"):
            link.send(torch.empty(1), 0)
        return link.why_closed

    def test_there_is_no_gpu(self) -> None:
        assert "no CUDA device" in open_device_link(COMM, [range(SIZE)], as_communicator(COMM).allgather).why_closed

    def test_the_group_has_no_nccl(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "without nccl" in self.refusal(monkeypatch, backends="cpu:gloo,cuda:gloo", uuid=str(RANK))

    def test_ranks_share_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said = self.refusal(monkeypatch, uuid="the same")
        assert "ranks 0 and 1 have the same GPU" in said and "set_device" in said

    def test_groups_that_only_some_ranks_have_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There NCCL would wait for ever for groups whose names differ."""
        monkeypatch.setattr(nccl, "covers_the_job", lambda rows: False)
        monkeypatch.setattr(nccl, "number_of_groups", lambda: RANK)
        assert "can make one of their own only if equal" in self.refusal(monkeypatch, uuid=str(RANK))

    def test_a_group_of_some_ranks_with_a_bound_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "device_id" in self.refusal(monkeypatch, uuid=str(RANK), bound=True)
