"""Lightning's Trainer around layer-parallel and recurrent networks: fit, validate, test."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lpgpu import GRU, MGRIT, LayerParallel
from lpgpu.nn import DenseBlock

lightning = pytest.importorskip("pytorch_lightning", reason="needs Lightning: pip install pytorch-lightning")


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        solver = MGRIT(coarsening=4, iterations=1)
        self.deep = LayerParallel(None, lambda: DenseBlock(8), 16, 1.0, solver=solver)
        self.gru = GRU(8, 8, batch_first=True, solver=solver)
        self.head = nn.Linear(8, 2)
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.deep(x.flatten(0, 1)).view_as(x))[1][-1])

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = self._loss(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.log("validation loss", self._loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


@pytest.mark.filterwarnings("ignore")
def test_fit_and_validate(tmp_path) -> None:
    x = torch.randn(64, 12, 8)
    data = DataLoader(TensorDataset(x, (x[:, -1, 0] > 0).long()), batch_size=16)
    model = Classifier()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    environments = pytest.importorskip("lightning_fabric.plugins.environments", reason="a part of Lightning")
    alone = environments.LightningEnvironment()  # asked for, because looking for others would start MPI in this process
    trainer = lightning.Trainer(max_epochs=8, accelerator="cpu", plugins=[alone], default_root_dir=tmp_path, **quiet)
    trainer.fit(model, data, data)
    (metrics,) = trainer.validate(model, data, verbose=False)
    assert sum(model.losses[-4:]) < sum(model.losses[:4])
    assert metrics["validation loss"] < model.losses[0]
