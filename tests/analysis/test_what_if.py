"""what_if: bookkeeping on a small network, and evidence on a trained one with photographs."""

import numpy as np
import pytest
import torch
from torch import nn

from liederiv import LieDerivError
from liederiv.analysis import attribute
from liederiv.analysis.aliasing.repairs import AliasFree, LowPass
from liederiv.analysis.aliasing.trials import rank_modules, what_if
from liederiv.transforms import transform


def network():
    """Circular, so that strides and activations are all that breaks translation."""
    torch.manual_seed(0)
    layers = []
    for c_in, c_out, stride in ((3, 6, 2), (6, 6, 1), (6, 8, 2)):
        layers += [
            nn.Conv2d(c_in, c_out, 3, stride, padding=1, padding_mode="circular"),
            nn.GELU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def images(count=2):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


PERIODIC = (AliasFree(4, "periodic"), LowPass("periodic"))


def test_repairing_everything_removes_the_error():
    net, x = network(), images()
    found = what_if(
        net, x, k=2, repair=PERIODIC, draws=2, scheme="fourier", labels=net(x).argmax(1)
    )
    assert [t.choice for t in found.trials] == ["attribution", "largest", "all", "random", "random"]
    assert [len(t.modules) for t in found.trials] == [2, 2, 5, 2, 2]
    assert {path for path, _ in found.ranking} == {"0", "1", "3", "4", "5"}
    assert (found.reduction("all") > 1 - 1e-4).all()
    assert found.trials[0].modules == tuple(path for path, _ in found.ranking[:2])
    assert found.before.agreement == found.before.accuracy == 1
    assert all(t.agreement == t.accuracy for t in found.trials)
    frame = found.to_dataframe()
    assert len(frame) == 6 * 2
    assert (frame[frame["choice"] == "none"]["reduction"] == 0).all()
    everything = frame[frame["choice"] == "all"]["reduction"]
    assert np.allclose(everything, found.reduction("all")[0])


def test_repairs_are_measured_over_the_step_that_was_attributed():
    net, x = network(), images(1)
    a = attribute(net, x, "translation_x", scheme="fourier", output_type="logits", step=1.0)
    found = what_if(
        net, x, "translation_x", k=1, draws=0, scheme="fourier", attribution=a, step=1.0
    )
    assert found.steps == ("1px",)
    ends = [net(transform(x, "translation_x", t, "fourier")) for t in (0.5, -0.5)]
    want = (ends[0] - ends[1]).square().mean()
    assert found.before.lee == pytest.approx([want.item()], rel=1e-3)
    with pytest.raises(LieDerivError, match=r"attribute again with the same .* and step"):
        what_if(net, x, "translation_x", k=1, scheme="fourier", attribution=a)


def test_the_ranking_follows_the_attribution():
    net, x = network(), images()
    a = attribute(net, x, "translation", scheme="fourier", output_type="logits")
    frame = a.to_dataframe()
    scores = rank_modules(a, "error")
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    rows = frame[frame["module"] == "0"].set_index("generator")
    want = sum(rows.loc[g, "inclusive"] / a.totals[g] for g in a.generators)
    assert scores["0"] == pytest.approx(want, rel=1e-6)
    gains = rank_modules(a, "gain")
    want = sum(
        (2 * rows.loc[g, "inclusive_projection"] - rows.loc[g, "inclusive"]) / a.totals[g]
        for g in a.generators
    )
    assert gains["0"] == pytest.approx(want, rel=1e-6)


def test_the_same_seed_draws_the_same_modules():
    net, x = network(), images(1)
    a = attribute(net, x, "translation_x", scheme="fourier", output_type="logits")
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    runs = [
        what_if(
            net, x, "translation_x", k=1, repair=PERIODIC, draws=3, scheme="fourier",
            attribution=a, seed=seed,
        )
        for seed in (3, 3, 4)
    ]  # fmt: skip
    drawn = [[t.modules for t in run.trials if t.choice == "random"] for run in runs]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())


def test_arguments_that_do_not_fit_are_refused():
    net, x = network(), images(1)
    a = attribute(net, x, "translation_x", scheme="fourier", output_type="logits")
    with pytest.raises(LieDerivError, match=r"attribution is for .* attribute again"):
        what_if(net, x, "rotation", attribution=a, scheme="fourier")
    with pytest.raises(LieDerivError, match="k=9 must lie between 1 and 5"):
        what_if(net, x, "translation_x", k=9, attribution=a, scheme="fourier")
    with pytest.raises(LieDerivError, match="rank_by='luck' is unknown"):
        rank_modules(a, "luck")


@pytest.mark.slow
def test_on_a_trained_network_the_attributed_modules_matter_more_than_random_ones():
    """tf_efficientnet_lite0, three photographs: 6 of 38 modules, error of the logits."""
    zoo = pytest.importorskip("liederiv.model_zoo")
    loaded = zoo.load("tf_efficientnet_lite0")
    photographs = zoo.load_images("samples", loaded.data_config, num_images=3)
    x = torch.stack(list(photographs))
    found = what_if(loaded.model, x, "translation", k=6, draws=2, scheme="fourier_mirror")
    chosen, everything = found.reduction("attribution").mean(), found.reduction("all").mean()
    random = found.reduction("random").mean(1)
    assert chosen > 0.5
    assert chosen > random.max() + 0.2
    assert everything > 0.8
