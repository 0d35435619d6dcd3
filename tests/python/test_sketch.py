"""What the unit tests of sketches expect is what their definition gives."""

import json
from pathlib import Path

from sketch_definition import contents

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures/sketch.json"


def test_the_expected_sketches_are_those_of_the_definition():
    expected, made = json.loads(FIXTURE.read_text()), json.loads(json.dumps(contents()))
    # Another NumPy may round estimates otherwise; the sketches are integers.
    rounded = [[*(v for of_tensor in of.pop("laws").values() for numbers in of_tensor.values() for v in numbers),
                *(v for pair in of.pop("normal") for v in pair)] for of in (expected, made)]
    assert made == expected
    assert all(abs(a - b) <= 1e-12 * abs(b) for a, b in zip(*rounded, strict=True))
