"""Figures: they show the numbers, name their axes, keep labels apart and touch nothing global."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text
from torch import nn

from liederiv.analysis import attribute, measure_aliasing
from liederiv.analysis.plots import figures as plots
from liederiv.errors import LieDerivError


class Deep(nn.Module):
    """Many stages of few modules each, with uneven names."""

    def __init__(self, count: int) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GELU()) for _ in range(count)]
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.a_head_with_a_long_name = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.out = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        for block in self.blocks:
            y = y + 0.3 * block(y)
        return self.out(self.a_head_with_a_long_name(y))


def network(count: int) -> nn.Module:
    torch.manual_seed(0)
    return Deep(count).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def deep(images):
    """An attribution with more than 150 modules that break the symmetry."""
    return attribute(network(90), images, ["translation_x", "rotation"], output_type="logits")


@pytest.fixture(scope="module")
def report(images):
    return measure_aliasing(network(3), images, "translation", output_type="logits")


def text_boxes(figure):
    """Boxes of all visible, non-empty texts, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = figure.findobj(Text)
    drawn = []
    for ax in figure.axes:
        low_x, high_x = sorted(ax.get_xlim())
        low_y, high_y = sorted(ax.get_ylim())
        for axis, low, high in ((ax.xaxis, low_x, high_x), (ax.yaxis, low_y, high_y)):
            # Tick labels outside the limits exist, but are not drawn.
            hidden = [t.label1 for t in axis.get_major_ticks() if not low <= t.get_loc() <= high]
            hidden += [t.label2 for t in axis.get_major_ticks()]
            hidden += [label for t in axis.get_minor_ticks() for label in (t.label1, t.label2)]
            drawn += [id(h) for h in hidden]
    seen = [t for t in texts if t.get_visible() and t.get_text().strip() and id(t) not in drawn]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in seen]


def assert_apart(figure):
    """No two texts of a figure overlap by more than a pixel, and all are inside."""
    boxes = text_boxes(figure)
    assert len(boxes) > 4
    for i, (a, p) in enumerate(boxes):
        assert p.x0 >= -1, a
        assert p.y0 >= -1, a
        assert p.x1 <= figure.bbox.width + 1, a
        assert p.y1 <= figure.bbox.height + 1, a
        for b, q in boxes[i + 1 :]:
            wide = min(p.x1, q.x1) - max(p.x0, q.x0)
            high = min(p.y1, q.y1) - max(p.y0, q.y0)
            assert min(wide, high) <= 1, f"{a!r} overlaps {b!r}"


ATTRIBUTION_PLOTS = {
    plots.plot_violations: "%",
    plots.plot_cumulative: "%",
    plots.plot_profile: "‖ℓ(z)‖ / ‖G z‖",
    plots.plot_icicle: "depth",
}


@pytest.mark.parametrize("draw", ATTRIBUTION_PLOTS)
def test_labels_are_there_and_apart_at_more_than_150_modules(deep, draw):
    assert sum(e.status == "measured" for e in deep.entries) > 150
    ax = draw(deep)
    assert isinstance(ax, Axes)
    assert ax.get_xlabel()
    assert ATTRIBUTION_PLOTS[draw] in ax.get_ylabel()
    assert_apart(ax.figure)


def test_the_overlap_check_can_fail(deep):
    ax = plots.plot_violations(deep)
    ax.set_xticks(range(0, 150), ["layer"] * 150, rotation=90)
    with pytest.raises(AssertionError, match="overlaps"):
        assert_apart(ax.figure)


def test_bars_are_the_shares_and_colours_the_kinds(deep):
    ax = plots.plot_violations(deep, "rotation")
    heights = [p.get_height() for p in ax.patches]
    assert len(heights) > 150
    assert sum(heights) == pytest.approx(100, abs=0.5)
    assert max(heights) == pytest.approx(100 * np.nanmax(deep.shares()[:, 1]))
    kinds = {"activation", "downsampling", "convolution"}
    colours = {to_hex(p.get_facecolor()).upper() for p in ax.patches}
    assert {plots.KIND_COLOURS[k] for k in kinds} <= colours
    legend = {t.get_text() for t in ax.get_legend().get_texts()}
    assert kinds <= legend


def test_cumulative_shares_end_at_100_per_cent(deep):
    ax = plots.plot_cumulative(deep)
    for line in ax.lines[: len(deep.generators)]:
        assert line.get_ydata()[-1] == pytest.approx(100, abs=0.5)


def test_profile_shows_the_ratios(deep):
    ax = plots.plot_profile(deep, ["rotation"])
    frame = deep.profile_dataframe().query("generator == 'rotation' and tensor == 'output'")
    drawn = ax.lines[0].get_ydata()
    assert np.allclose(drawn, frame["ratio"].dropna(), rtol=1e-6)


def test_icicle_rows_are_full(deep):
    ax = plots.plot_icicle(deep)
    top = [p for p in ax.patches if p.get_y() == 0]
    assert [p.get_width() for p in top] == pytest.approx([100])
    second = sum(p.get_width() for p in ax.patches if p.get_y() == 1)
    assert second == pytest.approx(100, abs=1)


def test_aliasing_has_a_point_per_module(report):
    ax = plots.plot_aliasing(report, "translation_y")
    count = sum(len(c.get_offsets()) for c in ax.collections)
    assert count == sum(np.isfinite(r.aliasing_share()[1]) for r in report.rows)
    assert "aliasing share (%)" in ax.get_ylabel()
    assert "‖c‖²" in ax.get_xlabel()
    assert_apart(ax.figure)


def test_spectra_of_strided_layers_and_nonlinearities(report):
    for path in ("stem.0", "blocks.1.1"):
        ax = plots.plot_spectra(report.get(path))
        assert "cycles per" in ax.get_xlabel()
        assert [t.get_text() for t in ax.get_legend().get_texts()][:2] == ["enters", "leaves"]
        assert path in ax.get_title(loc="left")
        assert_apart(ax.figure)


def test_layers_figure(deep, report):
    figure = plots.layers_figure(deep, report, title="a network")
    assert len(figure.axes) == 2 + 2
    assert_apart(figure)


def test_given_axes_are_used_and_nothing_global_changes(deep, report):
    from matplotlib.figure import Figure

    before = dict(mpl.rcParams)
    ax = Figure().subplots()
    assert plots.plot_violations(deep, ax=ax) is ax
    assert plots.plot_spectra(report.rows[0], Figure().subplots()).figure is not ax.figure
    assert dict(mpl.rcParams) == before


def test_unknown_generator_is_refused(deep):
    with pytest.raises(LieDerivError, match="generator='scale' was not measured; choose one of"):
        plots.plot_violations(deep, "scale")
