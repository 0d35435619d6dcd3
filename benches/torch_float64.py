"""The careful way: one safetensors file per step, reduced tensor by tensor in float64.

Usage as torch_float32.py.
"""

import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file


def main(directory):
    final = {n: t.double() for n, t in load_file(directory / "final.safetensors").items()}
    begin = time.perf_counter()
    for path in sorted(directory.glob("step*.safetensors")):
        tensors = load_file(path)
        dot = g2 = d2 = 0.0
        for name, r in final.items():
            g = tensors["g/" + name].double().flatten()
            d = (tensors["x/" + name].double() - r).flatten()
            dot += torch.dot(g, d).item()
            g2 += torch.dot(g, g).item()
            d2 += torch.dot(d, d).item()
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    main(Path(sys.argv[1]))
