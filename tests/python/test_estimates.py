"""What commands say of runs whose metrics are estimates: numbers come with a word of their intervals, and what these
do not tell is no finding. The cosines are the path's by construction."""

import re
import subprocess

import numpy as np
import polars as pl
import pytest

import lpa
from conftest import BINARY

N, STEPS = 20_000, 60
# Steps whose cosine is certainly negative, and those of which neither sketches nor int8 tell the sign.
NEGATIVE, OPEN = (10, 11), range(20, 26)
KINDS = {"sketched": {"sketch": 1024}, "int8": {"gradients": "int8", "iterates": "int8"}}


def cosine(step, negative=NEGATIVE):
    return -0.6 if step in negative else -1e-5 if step in OPEN else 0.6


def straight(path, kind, seed=0, negative=NEGATIVE):
    """A straight path to its end, at each step of which the gradient has the cosine that is wanted."""
    rng = np.random.default_rng(seed)
    way = rng.standard_normal(N)
    way /= np.linalg.norm(way)
    iterate = lambda t: {"w": ((1 - t / STEPS) * way).astype(np.float32)}
    with lpa.Writer(path, {"w": {"shape": [N], "dtype": "F32"}}, metadata={"seed": seed},
                    **KINDS[kind]) as writer:
        for t in range(STEPS):
            rest = rng.standard_normal(N)
            rest -= (rest @ way) * way
            c = cosine(t, negative)
            g = c * way + np.sqrt(1 - c * c) * rest / np.linalg.norm(rest)
            writer.step(iterate(t), {"grad": {"w": g.astype(np.float32)}}, {"epoch": t // 10})
        writer.finish(iterate(STEPS))
    return path


def command(*args):
    done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True)
    # 3: a claim does not hold.
    assert done.returncode == 0 or (args[0] == "check" and done.returncode == 4), done.stderr
    return " ".join(done.stdout.split())


def table_of(what, run, *args):
    out = run.parent / f"{what}.parquet"
    command(what, run, *args, "--out", out)
    return pl.read_parquet(out)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def run(kind, tmp_path_factory):
    return straight(tmp_path_factory.mktemp(kind) / "run", kind)


@pytest.fixture(scope="module")
def table(run):
    rows = table_of("analyze", run)
    # What all is about: the signs that the intervals leave open are those that were made so.
    open_ = rows.filter(pl.col("sign_unresolved"))["step"].to_list()
    assert open_ == list(OPEN)
    assert (rows["cos"] - np.array([cosine(t) for t in range(STEPS)])).abs().max() < 0.15
    return rows


def half(rows):
    """Half of the intervals, on the average, to the digits that are told."""
    return pytest.approx(((rows["cos_hi"] - rows["cos_lo"]) / 2).mean(), rel=5e-3)


def told(text):
    """How far off the text says that the cosine is on the average, and of how many steps its sign is not known."""
    number, count = r"([\d.e-]+)", r"(\d+)"
    found = re.search(f"lies within {number} of what is .*? its sign is not certain at {count} of {count} steps", text)
    assert found, text
    return float(found[1]), int(found[2]), int(found[3])


def test_the_summary_tells_of_certain_signs(run, table):
    text = command("analyze", run)
    assert "The cosine is certainly negative at 2 of 60 steps, first at step 10; at 6 its sign is not certain" in text
    assert "The sign of the cosine is certain at 54 of 60 steps (sign_unresolved marks the others)." in text
    assert "Its sign is not at" not in text


def test_events_are_what_is_certain(run, table):
    negative = table_of("events", run).filter(pl.col("event") == "negative")
    assert negative["step"].to_list() == list(NEGATIVE)
    text = command("events", run)
    assert "2 negative cosines" in text
    assert told(text) == (half(table), 6, 60)


def test_windows_certify_what_is_certain(run, table):
    windows = table_of("windows", run, "--window", 10).filter(pl.col("group") == "*")
    assert windows["negative"].to_list() == [0, 2, 0, 0, 0, 0]
    by_window = table.sort("step").group_by(pl.col("step") // 10, maintain_order=True)
    ends = by_window.agg(mu=pl.col("rsi_lo").min(), most=pl.col("eb_hi").max())
    assert windows["rsi_min"].to_list() == ends["mu"].to_list()
    assert windows["eb_max"].to_list() == ends["most"].to_list()
    rate = [None if mu <= 0 else 1 - (mu / most) ** 2 for mu, most in zip(ends["mu"], ends["most"], strict=True)]
    assert [r is None for r in rate] == [False, True, True, False, False, False]
    for found, expected in zip(windows["certified"], rate, strict=True):
        assert found == (None if expected is None else pytest.approx(expected, rel=1e-12))
    text = command("windows", run, "--window", 10)
    assert "least lower end of RSI" in text
    assert told(text) == (half(table), 6, 60)


def test_figures_say_how_far_off_they_are(run, table, tmp_path):
    svg = tmp_path / "f.svg"
    command("plot", "cos,d2", run, "--out", svg)
    text = " ".join(re.sub(r"<[^>]+>", " ", svg.read_text()).split())
    within = re.search(r"cos: estimates, within ([\d.e-]+) on the average \(cos_lo to cos_hi\)\.", text)
    assert float(within[1]) == half(table)
    assert "d2: estimates; the table has no intervals of it." in text
    # What was measured of the training is none.
    command("plot", "epoch", run, "--out", svg)
    assert "estimates" not in svg.read_text()


def test_the_page_says_it_too(kind, run, table):
    out = run.parent / "page.html"
    command("report", run, "--out", out)
    page = " ".join(re.sub(r"<[^>]+>", " ", out.read_text()).split())
    assert "2 negative cosines" in page
    # Of curves, of windows and of events.
    assert page.count("its sign is not certain at 6 of 60 steps") == 3
    # Among the facts, and in the whole summary.
    assert page.count({"sketched": "Sketched: ", "int8": "Stored with loss: "}[kind]) == 2


def test_a_comparison_counts_what_is_certain(kind, run, table, tmp_path):
    other = straight(tmp_path / "other", kind, seed=1)
    text = command("compare", run, other, "--out", tmp_path / "c.parquet")
    assert text.count(" 2 of 60 ") == 2
    assert told(text) == (half(table), 6, 60)


def test_claims_of_signs_are_open_where_the_signs_are(kind, run, tmp_path):
    outcomes = lambda run: dict(table_of("check", run).select("claim", "outcome").iter_rows())
    assert [outcomes(run)[c] for c in ("C1", "C3", "C15")] == ["fail"] * 3
    assert "The least lower end of RSI of the steps" in command("check", run)
    # Without the two that are certain there is no finding either way.
    without = straight(tmp_path / "open" / "run", kind, negative=())
    assert [outcomes(without)[c] for c in ("C1", "C3", "C5", "C15")] == ["not decidable"] * 4
