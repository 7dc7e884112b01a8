"""The benchmark of metric and penalty times what it says, and its candidates train."""

import timm
import torch


def test_steps_train_and_the_metric_does_not(load_script, capsys):
    bench = load_script("training")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4).train()
    x, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 3])
    runs = bench.candidates(model, x, labels)
    for key, run in runs.items():
        before = [p.detach().clone() for p in model.parameters()]
        run()
        moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert moved == (not key.startswith("metric")), key
        assert model.training
    row = bench.measure_model("test_resnet", 2, 1, image_size=32)
    assert set(row) == set(runs)
    assert all(seconds > 0 for seconds in row.values())
    bench.report({"test_resnet": row}, 2)
    assert "training step" in capsys.readouterr().out
