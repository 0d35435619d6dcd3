"""Licences and known faults of what lpa is built of: those that stand here are all that there may be.

    python tests/dependencies.py

Reads Cargo.lock by `cargo metadata`, and needs no network. What is known of faults is a list below, which whoever
updates a dependency looks up anew: each is either not in the version that is locked, or does not matter for the reason
given.
"""

import json
import re
import subprocess
import sys

ALLOWED = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-0", "NCSA",
    "Unicode-3.0", "Unlicense", "Zlib",
}

# Identifier, package, the first version without it, and why an affected one may be used.
ADVISORIES = [
    ("CVE-2026-124851", "zstd", (0, 14, 5),
     "a crafted payload can show bytes of others that the same process has decompressed, which are of the runs that "
     "its user reads; polars asks for 0.13, and two versions cannot be linked"),
    ("RUSTSEC-2026-0398", "zstd-safe", (8, 2, 0), "lpa calls no function of seekable archives"),
    ("RUSTSEC-2026-0399", "zstd-safe", (8, 2, 0), "lpa calls no deprecated function"),
    ("RUSTSEC-2026-0403", "zstd-safe", (8, 2, 0), "lpa calls no function that streams"),
    ("RUSTSEC-2026-0186", "memmap2", (0, 9, 12), None),
]


def is_allowed(licence):
    """Whether an SPDX expression allows what the project's own licence does; older ones have `/` for OR."""
    words = re.findall(r"[()]|[\w.+-]+", licence.replace("/", " OR "))
    told = []
    for i, word in enumerate(words):
        if word in ("(", ")"):
            told.append(word)
        elif word in ("AND", "OR"):
            told.append(word.lower())
        # An exception only ever allows more.
        elif word != "WITH" and (i == 0 or words[i - 1] != "WITH"):
            told.append(str(word in ALLOWED))
    return eval(" ".join(told), {"__builtins__": {}})


def version(text):
    return tuple(int(n) for n in re.match(r"(\d+)\.(\d+)\.(\d+)", text).groups())


def main():
    read = subprocess.run(["cargo", "metadata", "--locked", "--format-version", "1"], check=True, capture_output=True)
    packages = json.loads(read.stdout)["packages"]
    wrong = [f"{p['name']} {p['version']}: licence '{p['license']}'" for p in packages
             if not is_allowed(p["license"] or "none")]
    for name, package, fixed, reason in ADVISORIES:
        locked = [p["version"] for p in packages if p["name"] == package]
        affected = [v for v in locked if version(v) < fixed]
        if affected and reason is None:
            wrong.append(f"{package} {affected[0]}: {name} is mended in {'.'.join(map(str, fixed))}")
        if reason is not None and not affected:
            wrong.append(f"{package} {locked}: {name} needs no reason any more; say None")
    for line in wrong:
        print(line)
    print(f"{len(packages)} packages, {len(ADVISORIES)} advisories: {len(wrong)} faults")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
