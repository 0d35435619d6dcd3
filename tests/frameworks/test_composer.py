"""Composer really trains; what was recorded is, bit for bit, what the update used."""

import pytest
import torch
from training import Updates, assert_same, digits, perceptron

import lpa

composer = pytest.importorskip("composer")


class Classifier(composer.models.ComposerModel):
    def __init__(self):
        super().__init__()
        self.net = perceptron()

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return torch.nn.functional.cross_entropy(outputs, batch[1])


@pytest.mark.parametrize("algorithms", [[], ["clipping"], ["sam"]], ids=str)
def test_composer(tmp_path, monkeypatch, algorithms):
    images, labels = digits()
    data = torch.utils.data.TensorDataset(images[:256], labels[:256])
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    made = {"clipping": lambda: composer.algorithms.GradientClipping("norm", 0.1), "sam": composer.algorithms.SAM}
    trainer = composer.Trainer(model=model, optimizers=optimizer, max_duration="2ep", device="cpu",
                               train_dataloader=torch.utils.data.DataLoader(data, batch_size=64),
                               algorithms=[made[a]() for a in algorithms], device_train_microbatch_size=32)
    capture = Updates(model.parameters(), monkeypatch)
    with lpa.record(tmp_path / "run", model, trainer.state.optimizers):
        trainer.fit()
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert run.final_step == 8
    assert [t["name"] for t in run.manifest["tensors"]] == [n for n, _ in model.named_parameters()]
