"""Statistics over models, against scipy, closed forms and planted effects."""

import numpy as np
import pytest
import timm
from made_scan import MODELS, TRANSFORMS, make_scan
from scipy import stats
from torch import nn

from liederiv.analysis.models import architectures
from liederiv.analysis.models.architectures import (
    architecture_class,
    architecture_classes,
    mixing_of,
)
from liederiv.analysis.models.layer_statistics import kind_shares, kind_totals
from liederiv.analysis.models.leaderboard import leaderboard
from liederiv.analysis.models.metric_agreement import metric_agreement, metric_columns, subject_of
from liederiv.analysis.models.rank_correlation import rank_correlation
from liederiv.analysis.models.recipes import recipe_of, year_of
from liederiv.analysis.models.statistics import (
    correlations,
    describe_models,
    factor_table,
    rank_variance_explained,
    within_architectures,
)
from liederiv.errors import LieDerivError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_scan(tmp_path_factory.mktemp("scan"))


@pytest.fixture(scope="module")
def models(store):
    return describe_models(leaderboard(store.read("score")))


class TestPartialRankCorrelation:
    x, y, z, w = RNG.normal(size=(4, 40))

    def test_one_covariate_has_a_closed_form(self):
        x, y, z = self.x + self.z, self.y - self.z, self.z
        xy, xz, yz = (stats.spearmanr(a, b)[0] for a, b in ((x, y), (x, z), (y, z)))
        expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
        assert rank_correlation(x, y, given=z).value == pytest.approx(expected, abs=1e-12)

    def test_several_covariates_by_the_inverse_of_the_correlation_matrix(self):
        data = np.stack([self.x + self.z, self.y + self.z - self.w, self.z, self.w])
        inverse = np.linalg.inv(stats.spearmanr(data.T)[0])
        expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
        found = rank_correlation(data[0], data[1], given=data[2:].T)
        assert found.value == pytest.approx(expected, abs=1e-12)
        assert found.low < expected < found.high

    def test_what_size_explains_vanishes_given_size(self):
        x, y = self.z + 0.01 * self.x, self.z + 0.01 * self.y
        assert rank_correlation(x, y).value > 0.95
        found = rank_correlation(x, y, given=self.z)
        assert found.low < 0 < found.high

    def test_fully_determined_is_undefined(self):
        assert np.isnan(rank_correlation(self.x, self.y, given=self.x).value)
        assert np.isnan(rank_correlation([1, 2, 3], [1, 3, 2], given=[3, 2, 1]).value)

    def test_missing_covariates_are_left_out(self):
        z = self.z.copy()
        z[3] = np.nan
        assert rank_correlation(self.x, self.y, given=z).count == 39

    def test_copies_within_a_cluster_add_no_certainty(self):
        x, y = np.repeat(self.x[:10], 20), np.repeat(self.y[:10] + self.x[:10], 20)
        clusters = np.repeat(np.arange(10), 20)
        naive = rank_correlation(x, y, resamples=500)
        honest = rank_correlation(x, y, clusters=clusters, resamples=500)
        single = rank_correlation(self.x[:10], self.y[:10] + self.x[:10], resamples=500)
        assert honest.value == pytest.approx(naive.value)
        assert honest.high - honest.low > 2 * (naive.high - naive.low)
        assert honest.high - honest.low == pytest.approx(single.high - single.low, rel=0.25)

    @pytest.mark.parametrize("bad", [{"given": [1, 2]}, {"clusters": [1, 2]}])
    def test_lengths(self, bad):
        with pytest.raises(LieDerivError, match="must have 3"):
            rank_correlation([1, 2, 3], [1, 2, 3], **bad)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rho, n, trials = 0.5, 60, 200
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's ρ of a bivariate normal
    hits = 0
    for _ in range(trials):
        x, e = rng.normal(size=(2, n))
        y = rho * x + np.sqrt(1 - rho**2) * e
        found = rank_correlation(x, y, resamples=200)
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / trials <= 0.99


def test_variance_explained_is_kruskal_wallis():
    values = RNG.integers(0, 12, 50).astype(float)  # with ties
    labels = RNG.choice(list("abc"), 50)
    h = stats.kruskal(*(values[labels == label] for label in "abc")).statistic
    assert rank_variance_explained(values, labels) == pytest.approx(h / 49)
    assert np.isnan(rank_variance_explained(values, ["a"] * 50))


def test_correlations_against_scipy(models):
    found = correlations(models, list(TRANSFORMS), resamples=50).set_index(
        ["transform", "quantity"]
    )
    assert "top1" not in found.index.get_level_values(1)  # no accuracies were joined
    for transform in TRANSFORMS:
        both = models[[transform, "year"]].dropna()
        rho = stats.spearmanr(both[transform], both["year"])[0]
        row = found.loc[transform, "year"]
        assert row["rho"] == pytest.approx(rho)
        assert row["models"] == len(both) == 19
        assert row["low"] <= rho <= row["high"]
    assert np.isnan(found.loc["rotation", "parameters"]["partial"])
    assert np.isfinite(found.loc["rotation", "year"]["partial"])
    # All models have seen images of one size: there is nothing to correlate with.
    assert np.isnan(found.loc["rotation", "input_height"]["rho"])


def test_medians_by_factor(models):
    table = factor_table(models, "rotation", "class", minimum=1, resamples=50).set_index("class")
    for name, group in models.groupby("class"):
        assert table.loc[name, "median"] == pytest.approx(group["rotation"].median())
    assert table["median"].is_monotonic_increasing
    several = table[table["models"] > 2]
    assert (several["low"] <= several["median"]).all()
    assert (several["median"] <= several["high"]).all()
    assert "other" not in set(factor_table(models, "rotation", "class")["class"])
    with pytest.raises(LieDerivError, match="factor='colour' is unknown"):
        factor_table(models, "rotation", "colour")


def test_within_architectures_finds_a_planted_effect(models):
    planted = models.copy()
    tv = planted["recipe"] == "tv"
    base = planted["architecture"].map(
        {a: 10.0**i for i, a in enumerate(set(planted["architecture"]))}
    )
    planted["rotation"] = base * np.where(tv, 4.0, 1.0)
    found = within_architectures(planted, "rotation", "recipe").set_index("recipe")
    # resnet18 has tv and a1; resnet50 has tv, a1 and ra.
    assert set(found.index) == {"a1", "ra", "tv"}
    expected = np.exp(np.mean([np.log(4) / 2, np.log(4) * 2 / 3]))
    assert found.loc["tv", "factor_of_mean"] == pytest.approx(expected)
    assert found.loc["tv", "architectures"] == 2


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("a1_in1k", ("a1", "in1k", False, False, False)),
        ("augreg_in21k_ft_in1k", ("augreg", "in21k", True, False, False)),
        ("fb_dist_in1k", ("fb", "in1k", False, True, False)),
        ("ns_jft_in1k_475", ("ns", "jft", True, False, False)),
        ("fcmae_ft_in22k_in1k_384", ("fcmae", "in22k", True, False, True)),
        ("clip_laion2b_augreg_ft_in12k_in1k", ("clip_augreg", "laion2b", True, False, False)),
        ("openai_ft_in12k_in1k", ("", "openai", True, False, False)),
        ("fb_wsl_ig1b_ft_in1k", ("fb_wsl", "ig1b", True, False, False)),
        ("ra4_e3600_r224_in1k", ("ra4", "in1k", False, False, False)),
        ("in1k", ("", "in1k", False, False, False)),
    ],
)
def test_tags(tag, expected):
    r = recipe_of(tag)
    assert (r.recipe, r.pretraining, r.finetuned, r.distilled, r.self_supervised) == expected


def test_years_go_by_the_longest_prefix():
    years = {"resnet50": 2015, "resnetv2_50": 2016, "resnetrs50": 2021, "resnest50d": 2020,
             "tf_efficientnetv2_b0": 2021, "tf_efficientnet_b0": 2019, "swinv2_base": 2021,
             "coatnet_0_rw_224": 2021, "convnextv2_tiny": 2023}  # fmt: skip
    assert {name: year_of(name) for name in years} == years
    assert year_of("cs3darknet_m") is None


def test_metrics_agree_where_they_should(store):
    rows = store.read("score")
    table = metric_columns(rows)
    # In the made-up scan EQ-T is the root of the error; as a signal-to-noise ratio it is negated.
    found = metric_agreement(rows, resamples=20)
    assert set(found["metric"]) == {"eq_t"}
    assert (found["models"] == len(MODELS)).all()
    same = found[(found["transform"] == found["other_transform"])]
    np.testing.assert_allclose(same["rho"], -1.0)
    one, other = ("lee", "rotation", "probs"), ("eq_t", "rotation", "logits")
    assert stats.spearmanr(table[one], table[other])[0] == pytest.approx(-1.0)


def test_subjects_of_transforms():
    names = {"integer translation, ±0.125 of the size": "translation",
             "fractional translation, ±0.125 of the size": "translation",
             "shift along xy, 0 to 7 px": "translation", "roll(1, 0)": "translation",
             "rotation by 90°, 180°, 270°": "rotation", "translation_x": "translation",
             "rotation, 0° to 360°": "rotation", "rot90": "rotation", "flip_x": "flip"}  # fmt: skip
    assert {name: subject_of(name) for name in names} == names


def test_shares_of_kinds_add_up(store):
    rows = store.read("layers")
    shares = kind_shares(rows)
    np.testing.assert_allclose(shares.groupby(["model", "generator"])["share"].sum(), 1.0)
    parts = shares.groupby(["model", "generator"])["part"].sum()
    totals = rows.groupby(["model", "generator"])["total"].first()
    np.testing.assert_allclose(parts, totals.loc[parts.index])
    for by_class in (False, True):
        table = kind_totals(rows, by_class=by_class, resamples=50)
        keys = ["class", "generator"] if by_class else ["generator"]
        np.testing.assert_allclose(table.groupby(keys)["share"].sum(), 1.0)
        assert (table["low"] <= table["share"]).all()


def test_a_kind_that_a_model_lacks_counts_as_zero(store):
    rows = store.read("layers")
    first = rows["requested_model"].iloc[0]
    rows = rows[~((rows["requested_model"] == first) & (rows["kind"] == "pooling"))]
    table = kind_totals(rows, resamples=10).set_index(["generator", "kind"])
    row = table.loc["rotation", "pooling"]
    assert (row["models"], row["of"]) == (5, 6)
    given = rows[(rows["kind"] == "pooling") & (rows["generator"] == "rotation")]["share"]
    assert row["share"] == pytest.approx(given.sum() / 6)


class TestArchitectures:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("resnet18", "CNN"),
            ("seresnet18", "CNN"),  # squeeze and excite weighs channels
            ("convmixer_768_32", "CNN"),
            ("vit_tiny_patch16_224", "transformer"),
            ("convit_tiny", "transformer"),
            ("swin_tiny_patch4_window7_224", "transformer"),
            ("mixer_s16_224", "mixer"),
            ("resmlp_12_224", "mixer"),
            ("gmlp_ti16_224", "mixer"),
            ("sequencer2d_s", "mixer"),
            ("coatnet_0_rw_224", "hybrid"),
            ("mobilevit_xxs", "hybrid"),
            ("vit_small_r26_s32_224", "hybrid"),
            ("resnet50_clip", "CNN"),  # attention reads out, and no more
        ],
    )
    def test_by_name(self, name, expected, monkeypatch):
        assert architecture_classes([name]) == {name: expected}
        monkeypatch.setattr(architectures, "_known", dict)
        assert architecture_classes([name]) == {name: expected}

    def test_by_modules(self):
        patches = nn.Conv2d(3, 8, 4, 4)
        wide, attention = nn.Conv2d(8, 8, 3), nn.MultiheadAttention(8, 2)
        assert architecture_class(nn.Sequential(patches, nn.Linear(8, 8))) == "other"
        assert architecture_class(nn.Sequential(patches, wide)) == "CNN"
        assert architecture_class(nn.Sequential(patches, attention)) == "transformer"
        many = nn.Sequential(patches, attention, *(nn.Conv2d(8, 8, 3) for _ in range(5)))
        assert architecture_class(many) == "hybrid"
        assert mixing_of(many).convolutions == 5

    def test_unknown_names_are_other(self):
        assert architecture_classes(["my.models:net", ""]) == {
            "my.models:net": "other",
            "": "other",
        }

    def test_table_is_complete_for_this_timm(self):
        known = architectures._known()
        assert set(known.values()) <= set(architectures.CLASSES)
        missing = [name for name in timm.list_models() if name not in known]
        assert len(missing) < 0.1 * len(known), missing

    @pytest.mark.slow
    def test_table_is_what_the_modules_say(self):
        known = architectures._known()
        names = [name for name in timm.list_models() if name in known]
        wrong = {n: (known[n], c) for n in names if (c := architectures._of_name(n)) != known[n]}
        assert not wrong
