"""How tensors reach MPI, as far as that shows without MPI and without a GPU."""

import warnings

import pytest
import torch

from lpgpu.comm import transport
from lpgpu.comm.process_grid import ProcessGrid, device_of, local_rank
from lpgpu.comm.transport import Incoming, Outgoing, cuda_support, say_that_states_are_staged
from tests.assertions import assert_mentions


@pytest.fixture(autouse=True)
def ask_anew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LPGPU_CUDA_AWARE", raising=False)
    for cached in (cuda_support, say_that_states_are_staged):
        cached.cache_clear()
    yield
    for cached in (cuda_support, say_that_states_are_staged):
        cached.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)], ids=str)
def test_bytes_go_and_come(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (10 * torch.randn(*shape, 2)).to(dtype)[..., 0]
    outgoing, incoming = Outgoing(tensor, direct=False), Incoming(tensor, direct=False)
    expected = tensor.clone()
    tensor.zero_()  # what is sent is a copy
    incoming.buffer[:] = outgoing.buffer
    assert torch.equal(incoming.tensor(), expected)
    assert incoming.tensor().dtype == dtype


class TestCudaSupport:
    @staticmethod
    def found(monkeypatch: pytest.MonkeyPatch, *, says: bool, device: bool = False, failure: str = ""):
        monkeypatch.setattr(transport, "_query", lambda: (says, "it says so"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
        monkeypatch.setattr(transport, "_try_transfer", lambda: failure)
        return cuda_support()

    def test_a_library_that_says_no_is_not_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.found(monkeypatch, says=False, device=True)
        assert not found.aware and found.evidence == "it says so"

    def test_without_a_device_its_word_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.found(monkeypatch, says=True)
        assert found.aware
        assert_mentions(found.evidence, ["not tried", "no CUDA device"])

    def test_a_transfer_confirms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.found(monkeypatch, says=True, device=True)
        assert found.aware and "arrived" in found.evidence

    def test_a_transfer_that_fails_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.found(monkeypatch, says=True, device=True, failure="other numbers arrived")
        assert not found.aware and "other numbers arrived" in found.evidence

    @pytest.mark.parametrize("value", ["0", "1"])
    def test_the_user_may_decide(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("LPGPU_CUDA_AWARE", value)
        assert self.found(monkeypatch, says=value == "0").aware == (value == "1")


class TestStaging:
    def test_it_is_said_once(self) -> None:
        with pytest.warns(RuntimeWarning, match="staged through host memory.*it says so"):
            say_that_states_are_staged("it says so")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            say_that_states_are_staged("it says so")

    def test_strictly_it_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LPGPU_STRICT", "1")
        with pytest.raises(RuntimeError, match="staged"):
            say_that_states_are_staged("it says so")


class TestDevices:
    @pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID"])
    def test_the_launcher_says_the_local_rank(self, name: str) -> None:
        assert local_rank(None, {name: "3"}) == 3

    def test_one_process_is_the_first(self) -> None:
        assert local_rank(None, {}) == 0

    def test_ranks_take_turns_on_too_few_devices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert [device_of(rank).index for rank in range(4)] == [0, 1, 0, 1]

    def test_a_grid_of_one_process(self) -> None:
        grid = ProcessGrid(None)
        assert (grid.layer_ranks, grid.data_ranks, grid.layer_comm, grid.data_comm) == (1, 1, None, None)
        assert grid.is_root
        with pytest.raises(ValueError, match="layer_ranks is 2, there are 1 ranks"):
            ProcessGrid(None, layer_ranks=2)
