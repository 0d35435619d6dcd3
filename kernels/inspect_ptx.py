"""What the GPU's assembler makes of kernels/lpa.ptx: registers, spills, occupancy, instructions.

Usage: inspect_ptx.py [--check]. Writes kernels/RESOURCES.md, or with --check compares it. Fails where a kernel
spills on any architecture, or where the machine code does not do what the comments of the kernels say: the
conversions and float64 operations of each are counted, and its loads but for those of walk_f32, which depend on the
payload. Needs the packages of kernels/requirements.txt and no GPU.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path

import build

HERE = Path(__file__).resolve().parent
ARCHITECTURES = [70, 75, 80, 86, 89, 90, 100, 120]
# Where instructions are counted.
COUNTED = 90
# Of a multiprocessor: registers, and how many a warp is given at a time; the most warps; kB of shared memory, of
# which from sm_80 on one is the system's in each thread block.
REGISTERS, GRAIN = 65_536, 256
WARPS = {75: 32, 86: 48, 89: 48, 120: 48}
SHARED = {70: 96, 75: 64, 80: 164, 86: 100, 89: 100, 90: 228, 100: 228, 120: 100}
FOLDS = 5


def tool(package, name):
    files = [f for f in metadata.files(package) if f.name == name]
    path = files[0].locate()
    path.chmod(0o755)
    return str(path)


def constants():
    text = "".join((HERE / name).read_text() for name in build.SOURCES)
    return {name: int(value) for name, value in re.findall(r"constexpr unsigned (\w+) = (\d+);", text)}


def expected():
    """By kernel: what the comments say, for as many rows as the loops are written out for."""
    c = constants()
    # A Decayed direction takes one fused operation more, an Update one subtraction; a term is 4 loads.
    rows, sums = c["STEP_ROWS"] + 1, c["STEP_SUMS"]
    counts = {
        "step": {"LDG": rows * 5 + 4, "F2F": rows * 5, "DFMA": rows * (8 + 1), "DADD": rows * (4 + 1) + FOLDS * sums}
    }
    rows, pairs = c["PAIR_ROWS"] + 1, c["PAIR_TERMS"] * c["PAIR_REFERENCES"]
    vectors = 3 * c["PAIR_TERMS"] + c["PAIR_REFERENCES"]
    counts["pairs"] = {
        "LDG": rows * vectors + 4 * c["PAIR_TERMS"],
        "F2F": rows * vectors,
        "DFMA": rows * (3 * pairs + c["PAIR_TERMS"]),
        "DADD": rows * (2 * pairs + c["PAIR_TERMS"]) + FOLDS * 3 * pairs,
    }
    rows, sums = c["LAG_ROWS"] + 1, c["LAG_REFERENCES"]
    counts["lags"] = {
        "LDG": rows * (4 + sums) + 4,
        "F2F": rows * (4 + sums),
        "DFMA": rows * (sums + 1),
        "DADD": rows * (sums + 1) + FOLDS * sums,
    }
    found = {f"{kernel}_{dtype}": of for kernel, of in counts.items() for dtype in ["f32", "bf16", "f16"]}
    # A row twice: as nearly all are, and with any direction. A warp folds its share of the sums.
    rows, folded = c["ROWS"], c["STEP_SUMS"] // c["WARPS"]
    found["walk_f32"] = {"F2F": 2 * rows * 5, "DFMA": rows * (8 + 9), "DADD": rows * (4 + 4) + FOLDS * folded}
    # Integers alone. A chunk is 2 loads, its marks and what was chosen one each; a block's elements are loaded to be
    # packed and, elsewhere, to be stored as they are.
    loads = {"mark": 2 * c["MARKED"] + 2, "choose": c["PACKED"] // c["LANES"] + 3, "write": 2 * rows + 2 + 2 + 3}
    found |= {f"pack_{kernel}": {"LDG": of, "F2F": 0, "DFMA": 0, "DADD": 0} for kernel, of in loads.items()}
    # An iterate is predicted in float32 from five vectors; what describes it takes 11 loads.
    loads = {"take": 5 * rows + 11, "choose": c["PACKED"] // c["LANES"] + 2, "write": rows + 2 + 3}
    found |= {f"residual_{kernel}": {"LDG": of, "F2F": 0, "DFMA": 0, "DADD": 0} for kernel, of in loads.items()}
    return found


def resources(cubin, architecture):
    """Registers and bytes of shared memory by kernel; ends where one spills."""
    ptxas = tool("nvidia-cuda-nvcc-cu12", "ptxas")
    command = [ptxas, "-v", f"-arch=sm_{architecture}", str(HERE / "lpa.ptx"), "-o", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = {}
    for name, body in re.findall(r"Function properties for (\w+)\n(.*?registers[^\n]*)", text, re.S):
        sizes = re.search(r"(\d+) bytes stack.*?(\d+) bytes spill s.*?(\d+) bytes", body)
        stack, stores, loads = map(int, sizes.groups())
        if stack or stores or loads:
            sys.exit(f"{name} spills on sm_{architecture}: {body.strip()}")
        shared = re.search(r"(\d+) bytes smem", body)
        found[name] = int(re.search(r"Used (\d+) registers", body).group(1)), int(shared.group(1)) if shared else 0
    return found


def instructions(cubin):
    """Counts by kernel."""
    text = subprocess.run(
        [tool("nvidia-cuda-nvdisasm", "nvdisasm"), "-c", str(cubin)], capture_output=True, text=True, check=True
    ).stdout
    counts, kernel = {}, None
    for line in text.splitlines():
        if name := re.match(r"\.text\.(\w+):", line):
            kernel = counts.setdefault(name.group(1), Counter())
        elif kernel is not None and (op := re.search(r"\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_]*)[.\s;]", line)):
            kernel[op.group(1)] += 1
    return counts


def occupancy(registers, shared, architecture):
    """Warps of a multiprocessor, in thread blocks of 4 warps, and their share of the most."""
    a_warp = -(-registers * 32 // GRAIN) * GRAIN
    most = WARPS.get(architecture, 64)
    a_block = shared + (1024 if architecture >= 80 else 0)
    blocks = SHARED[architecture] * 1024 // a_block if shared else most
    warps = min(REGISTERS // a_warp // 4 * 4, 4 * blocks, most)
    return warps, warps / most


def main():
    with tempfile.TemporaryDirectory() as directory:
        cubin = Path(directory) / "lpa.cubin"
        used = {a: resources(cubin, a) for a in ARCHITECTURES}
        resources(cubin, COUNTED)
        counts = instructions(cubin)
    all_expected = expected()
    if set(counts) != set(all_expected):
        sys.exit(f"the kernels are {sorted(counts)}")
    for name, of in all_expected.items():
        got = {op: counts[name][op] for op in of}
        if got != of:
            sys.exit(f"{name}: the machine code has {got}, the comments say {of}")
        if never := [op for op in ["LDL", "STL", "ATOM", "ATOMG", "ATOMS", "RED"] if counts[name][op]]:
            sys.exit(f"{name} has {never}: local memory, or an order that is left to chance")
    used_shared = {name: of[1] for name, of in sorted(used[COUNTED].items()) if of[1] >= 1024}
    shared = " and of ".join(f"`{name}` takes {size // 1024} kB" for name, size in used_shared.items())
    lines = [
        "# What the kernels take",
        "",
        "Written by `make kernels` from `kernels/lpa.ptx`. Registers of a thread, and warps that a multiprocessor",
        "holds at a time (of those it could), in thread blocks of 4 warps. No kernel spills or has a stack; of shared",
        f"memory a thread block of {shared}.",
        "",
        "| kernel | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " |",
        "|---|" + "---|" * len(ARCHITECTURES),
    ]
    for name in sorted(counts):
        cells = []
        for a in ARCHITECTURES:
            warps, share = occupancy(*used[a][name], a)
            cells.append(f"{used[a][name][0]}: {warps} ({share:.0%})")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    ops = ["LDG", "F2F", "DFMA", "DADD", "SHFL"]
    lines += [
        "",
        f"Instructions in the machine code for sm_{COUNTED}, as many as the comments of the kernels say, but for the",
        "loads of `walk_f32`: how many there are depends on how a payload is stored.",
        "",
    ]
    lines += ["| kernel | " + " | ".join(ops) + " |", "|---|" + "---|" * len(ops)]
    lines += [f"| `{n}` | " + " | ".join(str(counts[n][op]) for op in ops) + " |" for n in sorted(counts)]
    text, path = "\n".join(lines) + "\n", HERE / "RESOURCES.md"
    if "--check" in sys.argv[1:]:
        if path.read_text() != text:
            sys.exit("kernels/RESOURCES.md is not what the assembler says: run make kernels")
        print(f"no kernel spills on {len(ARCHITECTURES)} architectures, and the machine code is what the comments say")
    else:
        path.write_text(text)


if __name__ == "__main__":
    main()
