"""The report: what is in the page, and what a real browser makes of it."""

import builtins
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_scan import MODELS, NASTY, make_scan, origin, score_frame
from patience import PATIENCE, wait_for

from liederiv.analysis.models.leaderboard import leaderboard
from liederiv.analysis.report import report_html
from liederiv.analysis.report.data import safe_json
from liederiv.errors import LieDerivError

DRIVER = shutil.which("chromedriver")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ACCURACY = pd.DataFrame(
    {
        "model": list(MODELS)[:15],
        "top1": [70.0 + i for i in range(15)],
        "top5": 90.0,
        "img_size": 224,
    }
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_scan(tmp_path_factory.mktemp("scan"))


@pytest.fixture(scope="module")
def page(store):
    return report_html(
        with_steps(store.read("score")),
        store.read("layers"),
        accuracy=ACCURACY,
        configuration=store.configuration | {"<b>layers": {"tolerance": "</pre><i>"}},
        title="Zoo <of> models",
    )


def test_page_loads_nothing_from_elsewhere(page):
    loading = r"<(?:script|img|iframe|link|source)[^>]+(?:src|href)=(?![\"']?data:)"
    assert not re.findall(loading, page)
    assert "@import" not in page.split("</style>")[0]


def test_text_from_the_scan_is_escaped(page):
    assert "<script>alert('x')" not in page
    assert "<b>boom</b>" not in page
    assert "</pre><i>" not in page
    assert "<b>layers" not in page
    assert "<title>Zoo &lt;of&gt; models</title>" in page


def test_embedded_data_are_the_leaderboards(page, store):
    text = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    data = json.loads(text)
    board = leaderboard(store.read("score")).frame.set_index("model")
    assert sorted(data["models"]["model"]) == sorted(MODELS)
    for model, value in zip(data["models"]["model"], data["models"]["rotation"], strict=True):
        assert value == board.loc[model, "rotation"]
    shares = next(iter(data["layers"].values()))["rotation"]["share"]
    assert sum(shares) == pytest.approx(100)
    assert data["kinds"]["models"] == 6


def with_steps(rows):
    """The same with curves of two transforms, steps out of order, and single axes of one."""
    lee = rows[(rows["metric"] == "lee") & (rows["output"] == "probs")]
    lee = lee.drop_duplicates("requested_model")
    steps = [
        lee.assign(metric="lee_share", transform=f"{name}@{h}{unit}", unit="1", value=1 / (1 + h))
        for name, unit in (("rotation", "deg"), ("translation_x", "px"), ("translation", "px"))
        for h in (0.5, 1e-6, 8)
    ]
    return pd.concat([rows, *steps], ignore_index=True)


def test_curves_over_steps(page, store):
    text = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    curves = json.loads(text)["curves"]
    assert {name: c["unit"] for name, c in curves.items()} == {
        "rotation": "deg",
        "translation": "px",
    }
    found = curves["rotation"]["curves"]
    assert len(found) == store.read("score").query("outcome == 'measured'")["model"].nunique()
    for curve in found:
        assert curve["h"] == [1e-6, 0.5, 8]
        assert curve["share"] == pytest.approx([1 / (1 + 1e-6), 1 / 1.5, 1 / 9])


def test_safe_json():
    nasty = {"a": "</script><!--", "b": float("nan"), "c": pd.NA, "d": [1, None, True]}
    text = safe_json(nasty)
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--", "b": None, "c": None, "d": [1, None, True]}


def test_a_single_model_without_layers(tmp_path):
    store = make_scan(tmp_path, models={"resnet18.a1_in1k": 11.7}, layers=False)
    page = report_html(store.read("score"), store.read("layers"))
    assert 'id="layers-section"' not in page
    assert "Rank correlations" not in page


def test_nothing_measured(tmp_path):
    with pytest.raises(LieDerivError, match="no model has been measured"):
        report_html(make_scan(tmp_path, models={}).read("score"))


def test_missing_extra_is_named(store, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "plotly":
            raise ImportError("no", name="plotly")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LieDerivError, match=r"needs the package 'plotly'; pip install 'liederiv\["):
        report_html(store.read("score"))


@pytest.fixture(scope="module")
def driver(page, tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu",
                     "--disable-dev-shm-usage", "--window-size=1300,1100",
                     "--host-resolver-rules=MAP * ~NOTFOUND"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = wait_for(lambda: started(webdriver.Chrome, options, Service(DRIVER)))
    try:
        driver.set_page_load_timeout(PATIENCE)
        driver.set_script_timeout(PATIENCE)
        driver.get(path.as_uri())
        wait_for(lambda: driver.find_elements("css selector", "#scatter .point"))
        wait_for(lambda: driver.find_elements("css selector", "#leaderboard tbody tr td"))
        yield driver
        assert driver.get_log("browser") == []
    finally:
        driver.quit()


@pytest.mark.skipif(None in (BROWSER, DRIVER), reason="Chromium or chromedriver is not installed")
class TestInBrowser:
    @staticmethod
    def column(driver, name):
        """The cells below a header of the leaderboard, and the header itself."""
        block = driver.find_element("css selector", "#leaderboard-section")
        headers = [h for h in block.find_elements("css selector", "thead th") if h.is_displayed()]
        names = [h.text.split("\n")[0].strip() for h in headers]
        rows = block.find_elements("css selector", "#leaderboard tbody tr")
        place = names.index(name)
        return [r.find_elements("css selector", "td")[place].text for r in rows], headers[place]

    def test_loads_without_errors_and_without_a_network(self, driver):
        assert driver.get_log("browser") == []
        asked = [json.loads(e["message"])["message"] for e in driver.get_log("performance")]
        urls = [
            m["params"]["request"]["url"]
            for m in asked
            if m["method"] == "Network.requestWillBeSent"
        ]
        assert urls
        assert all(u.startswith(("file:", "data:", "blob:")) for u in urls), urls

    def test_table_shows_every_model_as_it_is_named(self, driver):
        names, _ = self.column(driver, "model")
        assert sorted(names) == sorted(MODELS)

    @pytest.mark.parametrize("name", ["rotation", "parameters / M", "top-1 / %"])
    def test_table_sorts_by_number(self, driver, name):
        for sign in (1, -1):
            self.column(driver, name)[1].click()
            order = (name, "descending" if sign < 0 else "ascending")
            wait_for(lambda wanted=order: sorted_by(driver) == wanted)
            cells, _ = self.column(driver, name)
            values = [float(c) for c in cells if c != "–"]
            assert values == sorted(values, reverse=sign < 0)
            assert len(values) == (15 if name.startswith("top") else len(MODELS))
            if sign > 0:  # unknown ones come last
                assert cells[len(values) :] == ["–"] * (len(cells) - len(values))

    def test_table_filters(self, driver):
        search = driver.find_element("css selector", "#leaderboard-section .dt-search input")
        search.send_keys("resnet50")
        wait_for(lambda: len(self.column(driver, "model")[0]) == 3)
        search.clear()
        search.send_keys(" ")
        search.send_keys("\b")
        wait_for(lambda: len(self.column(driver, "model")[0]) == len(MODELS))
        fields = driver.find_elements("css selector", "#leaderboard-section tfoot input")
        shown = [f for f in fields if f.is_displayed()]
        shown[2].send_keys("mixer")
        wait_for(lambda: self.column(driver, "class")[0] == ["mixer"] * 3)
        shown[2].send_keys("\b" * 5)
        wait_for(lambda: len(self.column(driver, "model")[0]) == len(MODELS))

    def test_points_say_their_names(self, driver):
        from selenium.webdriver import ActionChains

        def hovered(point):
            """Again, if the point was still on its way when the mouse came."""
            ActionChains(driver).move_to_element(point).move_by_offset(1, 0).perform()
            return driver.find_elements("css selector", "#scatter .hoverlayer .hovertext")

        names = set()
        # Across the parameters, which every model has; the nasty name is one of them.
        choose(driver, "scatter-x", "parameters")
        wait_for(
            lambda: len(driver.find_elements("css selector", "#scatter .point")) == len(MODELS)
        )
        wait_for(lambda: at_rest(driver))
        for point in driver.find_elements("css selector", "#scatter .point"):
            wait_for(lambda p=point: hovered(p))
            names.add(driver.find_element("css selector", "#scatter .hoverlayer .nums").text)
        shown = "\n".join(names)
        assert NASTY in shown
        assert sum(name in shown for name in MODELS) >= len(MODELS) - 3  # points may overlap

    def test_other_axes_colours_and_intervals(self, driver):
        choose(driver, "scatter-y", "rotation")
        choose(driver, "scatter-colour", "pretraining")
        driver.find_element("css selector", "#scatter-bars").click()
        title = driver.find_element("css selector", "#scatter .ytitle").text
        assert title.startswith("rotation: LEE (prob²/rad²)")
        legend = driver.find_element("css selector", "#scatter .legend").text
        assert "in21k (3)" in legend
        bars = driver.find_elements("css selector", "#scatter .errorbar")
        assert len(bars) == len(MODELS)

    def test_layers_follow_the_choice(self, driver):
        def data():
            return driver.execute_script(
                "return document.getElementById('layers').data.map(t => t.y[0])"
            )

        first = data()
        model = sorted(list(MODELS)[:6])[1]
        choose(driver, "layers-model", model)
        second = data()
        choose(driver, "layers-generator", "scale")
        assert first != second != data()
        assert sum(data()) == pytest.approx(100)
        assert len(driver.find_elements("css selector", "#layers .bars path")) == 5
        assert len(driver.find_elements("css selector", "#kinds .bars .point")) == 15

    def test_curves_over_the_step(self, driver):
        """One line per model, over an axis whose unit is that of the transform."""

        def title():
            return driver.find_element("css selector", "#curves .xtitle").text

        wait_for(lambda: driver.find_elements("css selector", "#curves .scatterlayer .trace"))
        block = driver.find_element("css selector", "#curves-block")
        assert "How far does the derivative speak?" in block.text
        choose(driver, "curves-transform", "rotation")
        assert title() == "step h (deg)"
        traces = driver.find_elements("css selector", "#curves .scatterlayer .trace")
        assert len(traces) == len(MODELS)
        choose(driver, "curves-transform", "translation")
        assert title() == "step h (px)"

    def test_failures_are_listed(self, driver):
        section = driver.find_element("css selector", "#failures")
        assert "ValueError: <b>boom</b> | [red]no" in section.text
        assert "out of memory" in section.text


def started(browser, options, service):
    """The browser, or None where a busy machine did not start it within selenium's own patience."""
    from selenium.common.exceptions import WebDriverException

    try:
        return browser(options=options, service=service)
    except WebDriverException as error:
        if not re.search("Can not connect|not created|timed? ?out", str(error), re.IGNORECASE):
            raise
        return None


def choose(driver, name, value):
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("css selector", f"#{name}")).select_by_value(value)


def sorted_by(driver):
    """Name and direction of the column that the leaderboard is sorted by."""
    found = driver.execute_script(
        "const heads = document.querySelectorAll('#leaderboard-section thead th[aria-sort]');"
        "const own = [...heads].filter(h => h.innerText.trim());"
        "return own.map(h => [h.innerText.split('\\n')[0].trim(), h.getAttribute('aria-sort')])"
    )
    return tuple(found[0]) if found else None


def at_rest(driver):
    """Whether the points have ended their transition: two frames in a row show them in place."""
    return driver.execute_async_script(
        "const done = arguments[0];"
        "const places = () => [...document.querySelectorAll('#scatter .point')]"
        ".map(p => p.getAttribute('transform')).join();"
        "const before = places();"
        "requestAnimationFrame(() => requestAnimationFrame(() => done(before === places())))"
    )


def test_package_holds_the_assets():
    import liederiv.analysis.report as package

    folder = Path(package.__file__).parent / "assets"
    assert {p.name for p in folder.iterdir()} == {"report.html", "report.css", "report.js"}


def test_models_of_which_little_is_known(tmp_path):
    store = make_scan(tmp_path, models={"resnet18.a1_in1k": 11.7}, layers=False)
    unknown = {"parameters": None, "input_height": None, "tag": "", "family": ""}
    store.write(replace(origin("my.models:net"), **unknown), score_frame(2))
    page = report_html(store.read("score"))
    assert "my.models:net" in page
    assert "<NA>" not in page
    assert "&lt;NA&gt;" not in page
