"""Reports: the page draws the table's numbers, asks for nothing, and says what it cannot show."""

import json
import math
import re
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from playwright.sync_api import sync_playwright
from test_plot import METADATA, table

import lpa
from conftest import BINARY, FIXTURES

CHROMIUM = Path("/usr/bin/chromium")
DIGITS = FIXTURES / "digits_mlp"
EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: pages are not looked at (apt-get install chromium)")
    said = subprocess.run([BINARY, "doctor"], capture_output=True, text=True).stdout
    if "without interactive charts" in said:
        pytest.skip("uPlot was not built in: pages are not looked at (make uplot, then make build)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(browser):
    """Opens a page, and fails if it asks for anything or complains."""
    pages, wrong = [], []

    def look(path, **context):
        page = browser.new_page(viewport={"width": context.pop("width", 1280), "height": 900}, **context)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(path.as_uri())
        pages.append(page)
        return page
    yield look
    for page in pages:
        page.close()
    assert wrong == []


def chart(page, metric):
    """The chart of a metric, drawn."""
    box = page.locator(f'.chart[data-metric="{metric}"]')
    box.scroll_into_view_if_needed()
    for _ in range(100):
        if box.evaluate("box => box.uplot !== undefined && box.querySelector('.u-over, .empty') !== null"):
            return box
        page.wait_for_timeout(50)
    raise AssertionError(f"{metric} is not drawn")


def drawn(box):
    """The numbers that a chart holds, by series; what is null is NaN here, and must not be one there: a line would
    lead across. Where only another curve has a point, nothing is there."""
    plain = "box => box.uplot.data.every(s => Array.from(s).every(v => (v ?? null) === null || Number.isFinite(v)))"
    assert box.evaluate(plain)
    return [np.array([math.nan if v is None else v for v in s]) for s in box.evaluate("box => box.uplot.data")]


def view(box):
    return box.evaluate("box => [box.uplot.scales.x.min, box.uplot.scales.x.max]")


def settle(page):
    page.wait_for_timeout(150)


def fails(*args, **kwargs):
    done = subprocess.run([BINARY, "report", *map(str, args)], capture_output=True, text=True, **kwargs)
    assert done.returncode in ((3,) if "too large" in done.stderr else (1, 2)), (done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("lpa: ") and not done.stdout, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run, its page with all groups, and its table."""
    folder = tmp_path_factory.mktemp("digits")
    run = shutil.copytree(DIGITS, folder / "run")
    command = [BINARY, "report", run, "--group", "*", "--group", "each", "--out", folder / "run.html"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "run.html", pl.read_parquet(run / "metrics.all+each.parquet")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Half a million steps of noise with a single step that sticks out, up and down."""
    n = 500_000
    cos = 0.1 * np.random.default_rng(1).standard_normal(n)
    cos[123_456], cos[400_001] = 50.0, -30.0
    path = table(tmp_path_factory.mktemp("long") / "metrics.parquet", range(n), cos=cos)
    subprocess.run([BINARY, "report", path, "--out", path.with_suffix(".html")], check=True, capture_output=True)
    return path, cos


def column(frame, metric, group):
    values = frame.filter(pl.col("group") == group)[metric].cast(pl.Float64).to_numpy()
    return values.astype(np.float32).astype(np.float64)


def test_what_is_drawn_is_what_the_table_has(digits, look):
    page = look(digits[0])
    frame, groups = digits[1], ["*", "fc1.weight", "fc2.weight"]
    for metric, beside in (("cos", "cos_walk"), ("lolr", "lr"), ("dist", None), ("loss", None)):
        data = drawn(chart(page, metric))
        np.testing.assert_array_equal(data[0], np.arange(220))
        for group, got in zip(groups, data[1:4], strict=True):
            np.testing.assert_array_equal(got, column(frame, metric, group), err_msg=f"{metric} of {group}")
        if beside == "lr":
            assert len(data) == 5, "what is the same for all is drawn once"
        if beside:
            np.testing.assert_array_equal(data[4], column(frame, beside, "*"))


def test_a_group_is_switched_and_keeps_its_colour(digits, look):
    page = look(digits[0])
    box = chart(page, "cos")
    colours = lambda: box.evaluate("box => box.uplot.series.map(s => [s.label, s._stroke ?? s.stroke?.()])")
    before = dict(map(tuple, colours()[1:4]))
    page.locator("#groups").get_by_label("fc1.weight").uncheck()
    page.locator("#groups").get_by_label("fc2.bias").check()
    settle(page)
    after = dict(map(tuple, colours()[1:4]))
    assert set(after) == {"*", "fc2.weight", "fc2.bias"} and after["*"] == before["*"]
    assert after["fc2.weight"] == before["fc2.weight"] and after["fc2.bias"] == before["fc1.weight"]
    data = drawn(box)
    at = [label for label, _ in colours()].index("fc2.bias")
    np.testing.assert_array_equal(data[at], column(digits[1], "cos", "fc2.bias"))
    assert page.locator("#legend").inner_text().split() == ["*", "fc2.bias", "fc2.weight"]
    page.locator("#metrics").get_by_label("kappa", exact=True).check()
    np.testing.assert_array_equal(drawn(chart(page, "kappa"))[1], column(digits[1], "kappa", "*"))


def test_hover_zoom_and_keys(digits, look):
    page = look(digits[0])
    box, other = chart(page, "cos"), chart(page, "cos_excess")
    assert not box.locator(".readout").is_visible(), "no room is taken before a point is chosen"
    over = box.locator(".u-over").bounding_box()
    at = lambda part: (over["x"] + part * over["width"], over["y"] + 40)
    page.mouse.move(*at(100 / 219))
    assert "step 100," in box.locator("caption").inner_text()
    value = float(box.locator("tbody td").first.inner_text())
    assert value == pytest.approx(column(digits[1], "cos", "*")[100], rel=1e-4)
    page.mouse.move(*at(0.25))
    page.mouse.down()
    page.mouse.move(*at(0.5), steps=3)
    page.mouse.up()
    settle(page)
    np.testing.assert_allclose(view(box), [0.25 * 219, 0.5 * 219], atol=1)
    assert view(other) == view(box), "all charts show the same steps"
    page.mouse.dblclick(*at(0.5))
    settle(page)
    assert view(box) == view(other) == [0, 219]
    page.mouse.wheel(0, -100)
    settle(page)
    (lo, hi), middle = view(box), 0.5 * 219
    assert hi - lo == pytest.approx(219 / 1.2) and (lo + hi) / 2 == pytest.approx(middle, abs=0.5)
    page.mouse.move(5, 5)
    assert "step 1" in box.locator("caption").inner_text(), "what was said last stays"
    plot = box.locator(".plot")
    plot.focus()
    plot.press("0")
    settle(page)
    assert view(box) == [0, 219]
    for key, step in (("Home", 0), ("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", 219)):
        plot.press(key)
        assert box.locator("caption").inner_text().startswith(f"step {step},"), key
    plot.press("Home")
    plot.press("+")
    settle(page)
    assert view(box) == [0, 109.5]
    plot.press("-")
    settle(page)
    assert view(box) == [0, 219]
    page.get_by_role("button", name="epoch").click()
    settle(page)
    assert "epoch" in box.evaluate("box => box.uplot.axes[0].label")
    # Labels lie where the epochs begin.
    places = box.evaluate("box => box.uplot.axes[0]._splits.map((x, i) => [x, box.uplot.axes[0]._values[i]])")
    epoch = digits[1].filter(pl.col("group") == "*")["epoch"].to_numpy()
    for x, label in places:
        assert math.floor(epoch[int(x)]) == int(label) and (x == 0 or math.floor(epoch[int(x) - 1]) < int(label))
    assert len(places) >= 5


def test_points_of_many_steps_are_numpys(long, look):
    path, cos = long
    page = look(path.with_suffix(".html"))
    assert "up to 125 of them" in page.locator("#curves").inner_text()
    box = chart(page, "cos")
    assert page.locator("#status").inner_text() == "Steps 0 to 499,999: 4,000 points of up to 125 steps."
    x, lo, hi, mean = drawn(box)
    starts = np.arange(0, 500_000, 125)
    np.testing.assert_array_equal(x, starts + 62)
    np.testing.assert_array_equal(lo, np.minimum.reduceat(cos, starts).astype(np.float32))
    np.testing.assert_array_equal(hi, np.maximum.reduceat(cos, starts).astype(np.float32))
    exact = np.array([math.fsum(cos[i:i + 125]) / 125 for i in starts])
    np.testing.assert_allclose(mean, exact, rtol=2.0**-23, atol=1e-17)
    # The steps of the extremes are those that NumPy finds.
    over = box.locator(".u-over").bounding_box()
    for part in (0.1, 0.5, 0.9):
        page.mouse.move(over["x"] + part * over["width"], over["y"] + 40)
        first, last = [int(s.replace(",", "")) for s in
                       re.match(r"steps ([\d,]+) to ([\d,]+) \(125\)", box.locator("caption").inner_text()).groups()]
        here = cos[first:last + 1]
        said = [int(s.replace(",", "")) for s in re.findall(r"step ([\d,]+)", box.locator("tbody").inner_text())]
        assert said == [first + here.argmin(), first + here.argmax()] and len(here) == 125


def test_a_single_step_is_on_the_canvas(long, look):
    page = look(long[0].with_suffix(".html"))
    box = chart(page, "cos")
    painted = box.evaluate("""(box, spikes) => {
        const u = box.uplot, copy = document.createElement("canvas");
        [copy.width, copy.height] = [u.ctx.canvas.width, u.ctx.canvas.height];
        const ctx = copy.getContext("2d", { willReadFrequently: true });
        ctx.drawImage(u.ctx.canvas, 0, 0);
        return spikes.map(([step, value]) => {
            const x = Math.round(u.valToPos(step, "x", true)), y = Math.round(u.valToPos(value, "y", true));
            const { data } = ctx.getImageData(x - 2, y - 2, 5, 5);
            let blue = 0;
            for (let i = 0; i < data.length; i += 4) blue += data[i + 3] > 40 && data[i + 2] > data[i] + 30;
            return blue;
        });
    }""", [[123_456, 50.0], [400_001, -30.0], [123_456, 25.0], [250_000, 40.0]])
    assert painted[0] > 0 and painted[1] > 0 and painted[2] > 0 and painted[3] == 0


def test_less_than_a_point_says_so_and_names_the_command(long, look, lpa_command, tmp_path):
    path, cos = long
    page = look(path.with_suffix(".html"))
    chart(page, "cos").locator(".plot").focus()
    for _ in range(8):
        page.keyboard.press("+")
        settle(page)
    said = page.locator("#status").inner_text()
    command, a, b = re.search(r"shown by: lpa (.*) --steps (\d+)\.\.(\d+)$", said).groups()
    assert command == f"report {path}" and "points of up to 125 steps" in said
    (lo, hi), x = view(chart(page, "cos")), np.arange(62, 500_000, 125)
    inside = x[(lo <= x) & (x <= hi)]
    assert [int(a), int(b)] == [inside[0] - 62, inside[-1] + 63] and f"{len(inside)} points" in said
    for _ in range(8):
        page.keyboard.press("+")
    settle(page)
    assert "less than one point" in page.locator("#status").inner_text()
    lpa_command(*command.split(), "--steps", f"{a}..{b}", "--out", tmp_path / "part.html")
    part = look(tmp_path / "part.html")
    x, value = drawn(chart(part, "cos"))
    np.testing.assert_array_equal(x, np.arange(int(a), int(b)))
    np.testing.assert_array_equal(value, cos[int(a):int(b)].astype(np.float32))


def test_null_is_a_gap_and_a_logarithmic_axis_counts(lpa_command, look, tmp_path):
    dist = 10.0 ** np.linspace(-3, 3, 40)
    dist[[3, 20]] = np.nan
    dist[[5, 6]] = [0.0, -1.0]
    steps = [*range(30), *range(130, 140)]
    path = table(tmp_path / "metrics.parquet", steps, dist=dist, cos=np.full(40, -1.0),
                 low_precision=[i > 34 for i in range(40)])
    lpa_command("report", path, "--out", tmp_path / "a.html")
    page = look(tmp_path / "a.html")
    box = chart(page, "dist")
    x, value = drawn(box)
    assert x[30] == 79.5 and np.isnan(value[30]), "no line leads over steps that are missing"
    np.testing.assert_array_equal(np.delete(value, 30), dist.astype(np.float32))
    remark = box.locator(".remark").inner_text
    assert "2 of 40 values are null" in remark() and "5 of 40 distances are below 1,000 roundings" in remark()
    assert "logarithmic" not in remark()
    box.get_by_role("button", name="log").click()
    settle(page)
    assert "2 of 40 values are ≤ 0, which a logarithmic axis cannot show" in remark()
    shown = np.delete(drawn(box)[1], 30)
    np.testing.assert_array_equal(np.isnan(shown), ~(dist > 0))
    assert box.evaluate("box => box.uplot.scales.y.distr") == 3
    lo, hi = box.evaluate("box => [box.uplot.scales.y.min, box.uplot.scales.y.max]")
    assert 0 < lo <= np.nanmin(dist[dist > 0]) and hi >= 1000
    cos = chart(page, "cos")
    cos.get_by_role("button", name="log").click()
    settle(page)
    assert "no value is above 0" in cos.inner_text() and "40 of 40 values are ≤ 0" in cos.inner_text()


@pytest.mark.parametrize("values", [[0.0] * 9, [1e300, -1e-300, 1e-310] + [1.0] * 6, [5.0] + [None] * 8, [1e38] * 9,
                                    [2.0**-140] * 9])
def test_any_values_are_drawn_as_they_are(lpa_command, look, tmp_path, values):
    path = table(tmp_path / "metrics.parquet", range(9), cos=values)
    lpa_command("report", path, "--out", tmp_path / "a.html")
    page = look(tmp_path / "a.html")
    box = chart(page, "cos")
    got = drawn(box)[1]
    np.testing.assert_allclose(got, np.array(values, float), rtol=1e-7, atol=0)
    box.get_by_role("button", name="log").click()
    settle(page)
    positive = any(v and v > 0 for v in values)
    assert all(map(math.isfinite, view(box))) if positive else "above 0" in box.inner_text()


def test_names_of_any_kind_are_text(lpa_command, look, tmp_path):
    groups = [EVIL, "a\x00b\x1bc&\"'", "layer." * 60 + "weight", "<!--<script>"]
    path = table(tmp_path / "metrics.parquet", range(10), groups, cos=np.arange(40.0),
                 metadata={**METADATA, "lpa.summary": f"{EVIL}\n\nVerdict: {EVIL}\n", "lpa.groups": EVIL})
    out = tmp_path / f"{EVIL.replace('/', '')}.html"
    lpa_command("report", path, "--out", out, "--group", EVIL, "--group", groups[3])
    page = look(out)
    box = chart(page, "cos")
    np.testing.assert_array_equal(drawn(box)[1], np.arange(10) * 4.0)
    assert page.locator("img").count() == 0 and EVIL in page.locator(".verdict").inner_text()
    box.locator(".plot").press("Home")
    assert EVIL in page.locator("#legend").inner_text() and box.locator("tbody th").first.inner_text() == EVIL
    lpa_command("report", path, "--out", tmp_path / "all.html")
    page = look(tmp_path / "all.html", width=400)
    chart(page, "cos")
    assert page.locator("#groups label").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_page_is_small_whatever_the_table_holds(lpa_command, look, tmp_path):
    rng = np.random.default_rng(3)
    k, n = 5000, 40
    sizes = rng.permutation(k)
    real = ["cos", "eb", "rsi", "kappa", "own", "g2", "x2", "gx", "z", "lolr"]
    columns = {name: rng.standard_normal(n * k) for name in real}
    path = table(tmp_path / "metrics.parquet", range(n), [f"t{i}" for i in range(k - 1)] + ["*"], **columns)
    frame = pl.read_parquet(path).with_columns(n_params=pl.Series(np.tile(sizes, n), dtype=pl.Int64))
    frame.write_parquet(path, metadata=METADATA)
    lpa_command("report", path, "--out", tmp_path / "a.html")
    assert 6e6 < (tmp_path / "a.html").stat().st_size < 8e6
    page = look(tmp_path / "a.html")
    here = [key[3] for key in json.loads(page.locator("#header").inner_text())["keys"]]
    largest = [f"t{i}" for i in np.argsort(-sizes, kind="stable") if i < k - 1]
    assert here == ["*", *largest[:len(here) - 1]] and len(here) > 100
    note = page.locator("#curves .note").filter(has_text="left out").inner_text()
    assert f"{k - len(here):,} curves are left out: {largest[len(here) - 1]} (final, grad)" in note
    assert "--group" in note
    page.locator("#groups input[type=search]").fill(here[77])
    page.locator("#groups").get_by_label(here[77], exact=True).check()
    settle(page)
    rows = frame.filter(pl.col("group") == here[77])
    assert any(np.array_equal(s, rows["cos"].to_numpy().astype(np.float32)) for s in drawn(chart(page, "cos")))
    for name in here[3:5]:
        page.locator("#groups input[type=search]").fill(name)
        page.locator("#groups").get_by_label(name, exact=True).check()
    page.locator("#groups input[type=search]").fill(here[9])
    page.locator("#groups").get_by_label(here[9], exact=True).click()
    assert "At most 6 curves" in page.locator("#status").inner_text() and page.locator("#legend li").count() == 6


def test_every_column_at_once_fits_too(lpa_command, tmp_path):
    path = table(tmp_path / "metrics.parquet", range(20_000), cos=0.0)
    names = ["rsi", "eb", "cos", "kappa", "angle_deg", "lolr", "own", "cos_own", "cos_excess", "rsi_excess"]
    names += [f"{m}_{end}" for m in [*names, "lolr_ratio", "dist", "z", "t_excess"] for end in ("lo", "hi")]
    names += ["lolr_ratio"]
    frame, rng = pl.read_parquet(path), np.random.default_rng(5)
    groups = [frame.with_columns(pl.lit(g).alias("group"), *[pl.Series(n, rng.standard_normal(20_000)) for n in names])
              for g in "abcdefg"]
    pl.concat(groups).sort("step", maintain_order=True).write_parquet(path, metadata=METADATA)
    lpa_command("report", path, "--out", tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert 5e6 < len(text) < 8e6
    told = json.loads(re.search(r'id="header">(.*?)</script>', text)[1])
    assert len(told["keys"]) == 6 and 5 < told["stepsAPoint"] < 40, "six curves, of longer points"


def test_without_scripts_and_on_paper_there_are_figures(digits, look, browser):
    page = look(digits[0], java_script_enabled=False)
    assert page.locator("#figures svg").count() == 3 and page.locator("#figures svg").first.is_visible()
    assert page.locator("noscript").inner_text() and not page.locator(".controls").is_visible()
    page = look(digits[0], color_scheme="dark")
    chart(page, "cos")
    assert not page.locator("#figures").is_visible()
    ink = "box => getComputedStyle(box).getPropertyValue('background-color')"
    assert page.locator("body").evaluate(ink) == "rgb(22, 24, 27)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#figures svg").first.is_visible() and not page.locator("#charts").is_visible()
    assert page.locator("body").evaluate(ink) == "rgb(255, 255, 255)"


def test_the_walk_is_black_and_white_where_it_is_dark(digits, look):
    page = look(digits[0], color_scheme="light")
    box = chart(page, "cos")
    walk = "box => box.uplot.series.filter(s => s.label === 'cos_walk').map(s => [s.stroke(), s.dash.length])"
    assert box.evaluate(walk)[0] == ["#000", 2]
    page.emulate_media(color_scheme="dark")
    # The browser tells the page in its own time.
    for _ in range(100):
        settle(page)
        if box.evaluate(walk)[0][0] == "#fff":
            break
    assert box.evaluate(walk)[0] == ["#fff", 2]


def test_it_says_what_it_is(digits, look, lpa_command):
    page = look(digits[0])
    assert page.locator("h1").inner_text() == "run"
    assert "1,510 parameters" in page.locator("header p").first.inner_text()
    assert page.locator(".verdict").inner_text().startswith("Verdict on group *: early and middle, the gradients point")
    facts = page.locator(".facts li").all_inner_texts()
    assert [f.split()[0] for f in facts] == ["The", "loLR", "Trust:"]
    said = page.locator("#provenance").inner_text()
    assert "lpa report " in said and "--group each" in said and "ef171b0c4ec974e4531babd02de13a27" in said
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy.startswith("default-src 'none';") and "http" not in policy
    assert "lpa report: with uPlot 1.6.32" in lpa_command("doctor").stdout


def test_events_layers_and_claims_are_those_of_the_commands(digits, look):
    """What stands in the tables is what `lpa.events`, `lpa.windows` and `lpa.check` say; a step's button shows it."""
    path, frame = digits
    page, source = look(path), path.parent / "run" / "metrics.all+each.parquet"
    events = lpa.events(source)
    cells = [row.locator("td").all_inner_texts() for row in page.locator("#events tbody tr").all()]
    assert [int(c[0]) for c in cells] == events["step"].to_list()
    assert [float(c[2]) for c in cells] == pytest.approx(events["value"].to_list(), rel=5e-3)
    assert [c[6].split(" (")[0] for c in cells] == events["blame"].to_list()
    decided = lpa.check(source).filter(pl.col("outcome") != "not decidable")
    said = [tuple(re.split(r"[ :]+", s)[:2]) for s in page.locator("#claims .claim summary").all_inner_texts()]
    assert said == decided.select("outcome", "claim").rows()
    layers = page.locator("#path table").nth(1)
    groups = frame["group"].unique(maintain_order=True).to_list()
    assert layers.locator("tbody tr td:first-child").all_inner_texts() == groups
    shares = [float(s.split()[0]) for s in layers.locator("tbody tr td:nth-child(3)").all_inner_texts()]
    assert shares[0] == 100 and sum(shares[1:]) == pytest.approx(100, abs=0.3)
    page.locator("button.step").first.click()
    low, high = [int(v.replace(",", "")) for v in re.findall(r"[0-9,]+", page.locator("#status").inner_text())[:2]]
    assert low < events["step"][0] < high and high - low <= 81


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three runs of two lengths on one page, and their tables."""
    folder = tmp_path_factory.mktemp("three")
    shutil.copytree(DIGITS, folder / "digits")
    for seed, steps in ((1, 300), (2, 300)):
        command = [BINARY, "simulate", "random-walk", folder / f"walk{seed}", "--dim", "2000", "--steps", str(steps)]
        subprocess.run([*command, "--seed", str(seed)], check=True, capture_output=True)
    names = ["digits", "walk1", "walk2"]
    subprocess.run([BINARY, "report", *names], check=True, capture_output=True, cwd=folder)
    return folder, {name: pl.read_parquet(folder / name / "metrics.all+each.parquet") for name in names}


def test_several_runs_are_one_page(three, look):
    folder, frames = three
    page = look(folder / "report.html")
    assert page.locator("h1").inner_text() == "digits, walk1, walk2"
    assert page.locator("#legend").inner_text().split("\n") == ["digits, *", "walk1, *", "walk2, *"]
    for metric in ("cos", "dist", "t_excess"):
        box = chart(page, metric)
        x, *got = drawn(box)
        np.testing.assert_array_equal(x, np.arange(300))
        for name, line in zip(frames, got, strict=False):
            expected = column(frames[name], metric, "*")
            np.testing.assert_array_equal(line[:len(expected)], expected, err_msg=f"{metric} of {name}")
            assert np.isnan(line[len(expected):]).all()
    rows = page.locator("#verdict tbody tr")
    assert rows.locator("th").all_inner_texts() == list(frames)
    for row, name in zip(rows.all(), frames, strict=True):
        summary = pl.read_parquet_metadata(folder / name / "metrics.all+each.parquet")["lpa.summary"]
        sentence = re.search(r"Verdict[^:]*: (.*)", summary)[1]
        said = row.inner_text()
        assert sentence[:60] in said and "The cosine is" in said and "loLR is" in said and "Trust: " in said
    differs = rows.locator("td:nth-child(4)").all_inner_texts()
    assert "seed 1" in differs[1] and "seed 2" in differs[2] and "momentum 0.9" in differs[0]
    # One run is unticked, and its curve goes.
    page.locator("#runs").get_by_label("walk1").uncheck()
    settle(page)
    np.testing.assert_array_equal(drawn(chart(page, "cos"))[2], column(frames["walk2"], "cos", "*"))
    decided = lpa.check([folder / name for name in frames]).filter(pl.col("outcome") != "not decidable")
    said = page.locator("#claims .claim summary").all_inner_texts()
    assert [re.split(r"[ :]+", s)[1] for s in said] == decided["claim"].to_list()
    of_walk = decided.filter(pl.col("of").str.ends_with("walk2"))
    assert sum(s.rstrip().endswith("[walk2]") for s in said) == len(of_walk)
    for section in ("path", "events", "provenance"):
        assert page.locator(f"#{section} details.run > summary").all_inner_texts() == list(frames)
    for name, frame in frames.items():
        assert frame["run_id"][0] in page.locator("#provenance").text_content(), name
    assert page.locator("#figures svg").count() == 3
    assert not page.get_by_role("button", name="epoch").is_visible(), "epochs of runs begin at other steps"


def test_several_runs_in_python_are_the_same_page(three, monkeypatch):
    folder, frames = three
    monkeypatch.chdir(folder)
    assert lpa.report(list(frames), out="python.html") == "python.html"
    assert (folder / "python.html").read_bytes() == (folder / "report.html").read_bytes()
    with pytest.raises(lpa.UsageError, match="needs a run"):
        lpa.report([])


def test_maps_and_memory_are_there_where_they_were_measured(lpa_command, look, tmp_path):
    run = shutil.copytree(DIGITS, tmp_path / "run")
    lpa_command("report", "run", cwd=tmp_path)
    page = look(tmp_path / "run.html")
    assert "lpa pairs run" in page.locator("#trajectory").inner_text()
    assert "lpa report run --all" in page.locator("#memory").inner_text()
    assert not list(run.glob("pairs*")) and page.locator("#trajectory svg").count() == 0, "nothing is measured unasked"
    lpa_command("report", "run", "--all", cwd=tmp_path)
    text = (tmp_path / "run.html").read_text()
    for what in ("cos", "dist", "cos_first", "plane"):
        lpa_command("map", what, run / "pairs.parquet", "--width", "text", "--out", tmp_path / f"{what}.svg")
        assert (tmp_path / f"{what}.svg").read_text().strip() in text, what
    page = look(tmp_path / "run.html", width=400)
    assert page.locator("#trajectory svg").count() == 4 and page.evaluate("document.documentElement.scrollWidth") <= 400
    memory = page.locator("#memory pre").inner_text()
    assert memory == pl.read_parquet_metadata(run / "lags.parquet")["lpa.summary"]
    # Of another run, or of its beginning.
    lpa_command("simulate", "random-walk", tmp_path / "walk", "--dim", "100", "--steps", "50")
    lpa_command("pairs", tmp_path / "walk", "--out", run / "pairs.parquet")
    lpa_command("lags", run, "--steps", "0..100", "--out", run / "lags.parquet", "--lag", "2")
    lpa_command("report", "run", cwd=tmp_path)
    page = look(tmp_path / "run.html")
    for section in ("trajectory", "memory"):
        assert "is of another run, or of a part of this one" in page.locator(f"#{section}").inner_text()
    assert "is a table" in fails(run / "metrics.all+each.parquet", "--all", cwd=tmp_path)


def test_the_outermost_points_are_cut_off_and_counted(long, look):
    path, cos = long
    box = chart(look(path.with_suffix(".html")), "cos")
    whole = box.evaluate("box => [box.uplot.scales.y.min, box.uplot.scales.y.max]")
    assert whole[0] < -30 and whole[1] > 50
    box.get_by_role("button", name="99 %").click()
    means = cos.reshape(-1, 125).mean(axis=1)
    least, most = np.quantile(means, [0.01, 0.99])
    for _ in range(40):
        low, high = box.evaluate("box => [box.uplot.scales.y.min, box.uplot.scales.y.max]")
        if high < 1:
            break
        box.page.wait_for_timeout(50)
    assert low == pytest.approx(least - 0.05 * (most - least), rel=0.02)
    assert high == pytest.approx(most + 0.05 * (most - least), rel=0.02)
    outside = int(re.search(r"([\d,]+) of 4,000 points lie outside", box.locator(".remark").inner_text())[1])
    assert outside == pytest.approx(80, abs=3)


def test_steps_on_a_logarithmic_axis(digits, look):
    page = look(digits[0])
    chart(page, "cos")
    page.get_by_role("button", name="logarithmic axis of steps").click()
    settle(page)
    box = chart(page, "cos")
    np.testing.assert_array_equal(drawn(box)[0], np.arange(1, 220))
    np.testing.assert_array_equal(drawn(box)[1], column(digits[1], "cos", "*")[1:])
    assert view(box) == [1, 219] and box.evaluate("box => box.uplot.scales.x.distr") == 3
    assert "does not show step 0" in page.locator("#status").inner_text()
    places = [box.evaluate("(box, v) => box.uplot.valToPos(v, 'x')", v) for v in (1, 10, 100)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.5)


def test_two_fingers_zoom(digits, look):
    page = look(digits[0], has_touch=True, width=800)
    box = chart(page, "cos")
    over = box.locator(".u-over").bounding_box()
    at = lambda *parts: [{"x": over["x"] + part * over["width"], "y": over["y"] + 50, "id": i}
                         for i, part in enumerate(parts)]
    client = page.context.new_cdp_session(page)
    for kind, points in (("touchStart", at(0.4, 0.6)), ("touchMove", at(0.3, 0.7)), ("touchMove", at(0.2, 0.8)),
                         ("touchEnd", [])):
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        settle(page)
    # The steps that were under the fingers are a third of what 0.2 to 0.8 was.
    low, high = view(box)
    assert high - low == pytest.approx(219 / 3, rel=0.03) and (low + high) / 2 == pytest.approx(219 / 2, abs=2)


def test_numbers_are_there_for_those_who_do_not_see_a_chart(digits, look):
    page = look(digits[0])
    box = chart(page, "cos")
    box.locator(".numbers summary").click()
    box.locator(".numbers tr").nth(1).wait_for()
    rows = [row.locator("td").all_inner_texts() for row in box.locator(".numbers tr").all()[1:]]
    assert len(rows) == 11
    steps = [int(re.match(r"step (\d+)", r[0])[1]) for r in rows]
    assert steps == pytest.approx(np.linspace(0, 219, 11), abs=0.51)
    values = column(digits[1], "cos", "*")[steps]
    np.testing.assert_allclose([float(r[1]) for r in rows], values, rtol=1e-4)


def test_axes_show_what_numbers_are_measured_by(digits, look):
    page = look(digits[0], color_scheme="light")
    low, high = chart(page, "t_excess").evaluate("box => [box.uplot.scales.y.min, box.uplot.scales.y.max]")
    assert low < -4 and high > 4
    dark = chart(page, "t_excess").evaluate("""box => {
        const u = box.uplot, copy = document.createElement("canvas"), across = u.bbox.width;
        [copy.width, copy.height] = [u.ctx.canvas.width, u.ctx.canvas.height];
        const ctx = copy.getContext("2d", { willReadFrequently: true });
        ctx.drawImage(u.ctx.canvas, 0, 0);
        return [4, -4, 1e9].map((t) => {
            const y = t > 1e6 ? u.bbox.top + 3 : Math.round(u.valToPos(t, "y", true));
            const { data } = ctx.getImageData(u.bbox.left, y - 1, across, 3);
            let black = 0;
            for (let i = 0; i < data.length; i += 4) {
                black += data[i + 3] > 100 && data[i] + data[i + 1] + data[i + 2] < 60;
            }
            return black / across;
        });
    }""")
    assert dark[0] > 0.3 and dark[1] > 0.3 and dark[2] < 0.1
    assert chart(page, "dist").evaluate("box => box.uplot.scales.y.min") == 0
    order = [box.get_attribute("data-metric") for box in page.locator(".chart").all()]
    assert order[:4] == ["cos", "cos_excess", "t_excess", "loss"]


def test_the_network_is_refused(digits, browser):
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(digits[0].as_uri())
    assert page.evaluate("fetch('https://127.0.0.1/').then(() => 'asked', () => 'refused')") == "refused"
    assert any("Content Security Policy" in text for text in said)
    page.close()


def test_the_same_table_is_the_same_page(lpa_command, tmp_path):
    path = table(tmp_path / "metrics.parquet", range(9000), ["*", "a"], cos=np.sin(np.arange(18000.0)))
    for name in ("a", "b"):
        lpa_command("report", path, "--out", tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_what_is_not_there_is_said(lpa_command, look, tmp_path):
    frame = pl.read_parquet(table(tmp_path / "metrics.parquet", range(20), cos=np.arange(20.0)))
    frame.with_columns(eb=pl.lit(None, pl.Float64)).write_parquet(tmp_path / "old.parquet", metadata=METADATA)
    lpa_command("report", tmp_path / "old.parquet", "--out", tmp_path / "old.html")
    page = look(tmp_path / "old.html")
    said = page.locator("main").inner_text()
    assert "The table has no summary" in said and re.search(r"it has no columns .*\brsi\b", said)
    assert re.search(r"Null at every step: .*\beb\b", said) and "lolr is null" not in said
    null = table(tmp_path / "null.parquet", range(20), dist=None)
    lpa_command("report", null, "--out", tmp_path / "null.html")
    page = look(tmp_path / "null.html")
    assert page.locator(".chart").count() == 0 and "No number of this table" in page.locator("#curves").inner_text()


def test_a_run_of_one_step_has_a_page(look, tmp_path):
    writer = lpa.Writer(tmp_path / "run", {"x": np.zeros(3, np.float32)}, streams=["grad"])
    writer.step({"x": np.ones(3, np.float32)}, {"grad": {"x": np.ones(3, np.float32)}})
    writer.finish({"x": np.zeros(3, np.float32)})
    with pytest.raises(lpa.UsageError, match=r"A\.\.B"):
        lpa.open(tmp_path / "run").report(steps="0..9:3")
    path = lpa.open(tmp_path / "run").report(out=tmp_path / "a.html")
    assert path == str(tmp_path / "a.html")
    page = look(tmp_path / "a.html")
    x, value = drawn(chart(page, "cos"))[:2]
    assert list(x) == [0] and value[0] == 1.0


def test_bad_input_is_one_line(tmp_path):
    good = table(tmp_path / "metrics.parquet", range(10), cos=np.arange(10.0))
    assert "a report is FILE.html" in fails(good, "--out", tmp_path / "a.pdf")
    assert "no row is of --group b" in fails(good, "--group", "b", cwd=tmp_path)
    assert "no row of steps 20..30" in fails(good, "--steps", "20..30", cwd=tmp_path)
    assert "--steps of a report is A..B" in fails(good, "--steps", "0..9:3", cwd=tmp_path)
    assert "the table has no rows" in fails(table(tmp_path / "empty.parquet", []), cwd=tmp_path)
    foreign = table(tmp_path / "foreign.parquet", range(3), metadata={"a": "b"}, cos=1.0)
    assert "none that lpa analyze has written" in fails(foreign, cwd=tmp_path)
    (tmp_path / "bad.parquet").write_bytes(good.read_bytes()[:-7])
    assert "bad.parquet" in fails(tmp_path / "bad.parquet", cwd=tmp_path)
    assert "is no lpa run" in fails(tmp_path, cwd=tmp_path)
    assert "cannot write" in fails(good, "--out", tmp_path / "none" / "a.html")
    writer = lpa.Writer(tmp_path / "run", {"x": np.zeros(3, np.float32)}, streams=["grad"])
    writer.step({"x": np.ones(3, np.float32)}, {"grad": {"x": np.ones(3, np.float32)}})
    writer.stop()
    assert "has no final iterate" in fails(tmp_path / "run", cwd=tmp_path)
    (tmp_path / "metrics.html").write_text("mine")
    assert "no report of lpa's" in fails(good, cwd=tmp_path)
    assert (tmp_path / "metrics.html").read_text() == "mine"


def test_a_full_disk_leaves_nothing(tmp_path):
    good = table(tmp_path / "metrics.parquet", range(10), cos=np.arange(10.0))

    def small():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    assert "cannot write" in fails(good, "--out", tmp_path / "a.html", preexec_fn=small)
    assert {f.name for f in tmp_path.iterdir()} == {"metrics.parquet"}
