"""The guide's commands are run as they stand, and say what it quotes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl

from conftest import BINARY, ROOT

GUIDE = (ROOT / "docs" / "guide.md").read_text()


def test_the_guide_says_what_its_commands_say(tmp_path):
    commands = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 9
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join([str(BINARY.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    said = ""
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True,
                              text=True)
        assert done.returncode == 0, command + done.stderr
        said += done.stdout
    for quoted in re.findall(r"```text\n(.*?)```", GUIDE, re.DOTALL):
        assert quoted.rstrip().removesuffix(".") in said
    for name in ["digits", "walk", "control"]:
        # The pictures that are shown are these, but for the last digits of a training.
        made, shown = (tmp_path / f"{name}.svg").read_text(), (ROOT / "docs" / "pictures" / f"{name}.svg").read_text()
        assert re.findall(r"<text.*?</text>", made) == re.findall(r"<text.*?</text>", shown)
        assert made.count("<path") == shown.count("<path")
    assert (tmp_path / "walk.svg").read_bytes() == (ROOT / "docs" / "pictures" / "walk.svg").read_bytes()


def test_the_figures_of_the_guide(tmp_path):
    subprocess.run([sys.executable, ROOT / "examples" / "guide.py", tmp_path / "runs"], check=True)
    out = tmp_path / "both.parquet"
    subprocess.run([BINARY, "analyze", tmp_path / "runs" / "digits", "--ref", "final", "--ref",
                    f"{tmp_path}/runs/control:final", "--out", out, "-q"], check=True)
    thirds = pl.read_parquet(out).with_columns(third=pl.col("step") // 200)
    means = thirds.group_by("reference", "third").agg(pl.col("cos_excess").mean()).sort("reference", "third")
    control, final = means["cos_excess"].to_list()[:3], means["cos_excess"].to_list()[3:]
    quoted = re.search(r"\(cos_excess ([\d.]+) and ([\d.]+),.*?\(([\d.]+), ([\d.]+), ([\d.]+)\)\.\*", GUIDE, re.DOTALL)
    numbers = [float(n) for n in quoted.groups()]
    for number, mean in zip(numbers, [*final[:2], *control], strict=True):
        assert abs(number - mean) < 0.03 * mean + 1e-3
