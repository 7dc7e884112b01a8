"""The metric in a real training run of Lightning."""

import logging
import math

import pytest
import torch
from cases import formula_images
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import liederiv

pytestmark = pytest.mark.filterwarnings(
    # Lightning's own: advice on workers, and a call of torch that was renamed.
    "ignore:.*does not have many workers.*",
    "ignore:.*LeafSpec.*:FutureWarning",
)


@pytest.fixture(autouse=True)
def _no_tips():
    loggers = [logging.getLogger(f"lightning.pytorch{s}") for s in ("", ".utilities.rank_zero")]
    before = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.WARNING)
    yield
    for log, level in zip(loggers, before, strict=True):
        log.setLevel(level)


def test_a_small_run(tmp_path, monkeypatch):
    from lightning.pytorch import LightningModule, Trainer

    monkeypatch.chdir(tmp_path)
    x = torch.cat([formula_images(), formula_images().flip(-1)])
    loader = DataLoader(TensorDataset(x, torch.tensor([0, 1, 0, 1])), batch_size=3)

    class Classifier(LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 2)
            )
            self.lee = liederiv.LocalEquivarianceError("translation,rotation")
            self.inference = []

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, _):
            self.inference.append(torch.is_inference_mode_enabled())
            self.lee.update(self, batch[0])

        def on_validation_epoch_end(self):
            self.log_dict({f"lee/{k}": v for k, v in self.lee.compute().items()})
            self.lee.reset()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-2)

    model = Classifier()
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, loader, loader)
    assert model.training
    in_training = dict(trainer.callback_metrics)
    trainer.validate(model, loader, verbose=False)  # on its own, in inference mode
    assert model.inference == [False] * 4 + [True] * 2
    want = liederiv.measure(model.net.eval(), x, "translation,rotation", "lee")
    for name in ("translation_x", "translation_y", "translation", "rotation"):
        value = want.get("lee", name, "probs").value
        assert math.isclose(in_training[f"lee/{name}"], value, rel_tol=1e-4)
        assert math.isclose(trainer.callback_metrics[f"lee/{name}"], value, rel_tol=1e-4)
    assert not list(tmp_path.iterdir())
