"""The authors' way: one safetensors file per step, concatenated and reduced in float32.

Usage: torch_float32.py DIRECTORY, with step*.safetensors (tensors x/NAME and g/NAME) and
final.safetensors (NAME). Prints the seconds for all steps, loading included.
"""

import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file


def flat(tensors, names, prefix):
    return torch.cat([tensors[prefix + name].flatten() for name in names])


def main(directory):
    final = load_file(directory / "final.safetensors")
    names = list(final)
    x_star = flat(final, names, "")
    begin = time.perf_counter()
    for path in sorted(directory.glob("step*.safetensors")):
        tensors = load_file(path)
        g = flat(tensors, names, "g/")
        dist = flat(tensors, names, "x/") - x_star
        torch.norm(dist).item(), torch.norm(g).item(), torch.dot(dist, g).item()
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    main(Path(sys.argv[1]))
