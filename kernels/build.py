"""Compiles kernels/*.cu to kernels/lpa.ptx, with the one compiler that kernels/LOCK names.

Usage: build.py [--check]. Needs the package of kernels/requirements.txt and no GPU, driver or toolkit. With
--check nothing is written: the committed PTX must be what the compiler makes of the sources, byte for byte.
"""

import ctypes
import hashlib
import json
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = "nvidia-cuda-nvrtc-cu11"
SOURCES = [
    "pack.cu",
    "residual.cu",
    "sums.cu",
    "walk.cu",
    "packed.cuh",
    "planes.cuh",
    "predict.cuh",
    "step.cuh",
    "vectors.cuh",
]
# No contraction, no flushing: an operation rounds as it does on the CPU.
OPTIONS = ["--gpu-architecture=compute_70", "--std=c++17", "--fmad=false", "--ftz=false"]


def nvrtc():
    files = [f for f in metadata.files(PACKAGE) if f.name.startswith("libnvrtc.so")]
    return ctypes.CDLL(str(files[0].locate()))


def compiled():
    """The PTX of all sources."""
    library, program = nvrtc(), ctypes.c_void_p()
    text = {name: (HERE / name).read_bytes() for name in SOURCES}
    headers = [name for name in SOURCES if name.endswith(".cuh")]
    array = lambda items: (ctypes.c_char_p * len(items))(*items)
    names, contents = array([h.encode() for h in headers]), array([text[h] for h in headers])
    check = lambda code: code and sys.exit(f"NVRTC fails with code {code}")
    units = b"".join(b'#line 1 "%s"\n%s' % (n.encode(), text[n]) for n in SOURCES if n.endswith(".cu"))
    check(library.nvrtcCreateProgram(ctypes.byref(program), units, b"lpa.cu", len(headers), contents, names))
    if library.nvrtcCompileProgram(program, len(OPTIONS), array([o.encode() for o in OPTIONS])):
        size = ctypes.c_size_t()
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        sys.exit(log.value.decode())
    size = ctypes.c_size_t()
    check(library.nvrtcGetPTXSize(program, ctypes.byref(size)))
    ptx = ctypes.create_string_buffer(size.value)
    check(library.nvrtcGetPTX(program, ptx))
    return ptx.value


def lock(ptx):
    """What the PTX was made of, and with."""
    digest = lambda data: hashlib.sha256(data).hexdigest()
    made = {
        "compiler": f"{PACKAGE} {metadata.version(PACKAGE)}",
        "options": OPTIONS,
        "sources": {name: digest((HERE / name).read_bytes()) for name in SOURCES},
        "lpa.ptx": digest(ptx),
    }
    return json.dumps(made, indent=2).encode() + b"\n"


def main():
    ptx = compiled()
    files = {"lpa.ptx": ptx, "LOCK": lock(ptx)}
    if "--check" not in sys.argv[1:]:
        for name, data in files.items():
            (HERE / name).write_bytes(data)
        return
    stale = [name for name, data in files.items() if (HERE / name).read_bytes() != data]
    if stale:
        sys.exit(f"kernels/{' and kernels/'.join(stale)} are not what the sources give: run make kernels")
    print(f"kernels/lpa.ptx is what the sources give ({len(ptx):,} bytes)")


if __name__ == "__main__":
    main()
