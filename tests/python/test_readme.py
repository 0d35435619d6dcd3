"""The README's training is run as it stands."""

import re
import subprocess
import sys

from conftest import ROOT


def test_the_ten_lines_of_the_readme(tmp_path, lpa_command):
    script = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", script], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    text = lpa_command("analyze", tmp_path / "runs" / "digits").stdout
    assert "500 steps measured" in text and "Verdict" in text
