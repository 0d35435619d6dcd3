#!/bin/sh
# Checks and measures lpa on a machine with an NVIDIA GPU, without network, Rust or a CUDA toolkit. What it prints
# is Markdown for docs/gpu-results.md. Takes a few minutes.
#
# Usage: gpu-check.sh [LPA], the program; else dist/lpa-gpu/lpa (make gpu-bundle) or target/release/lpa.
# PYTHON names a Python with PyTorch, for the comparison with it; without one that part is left out.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
lpa=${1:-}
for candidate in "$here/lpa" "$here/../dist/lpa-gpu/lpa" "$here/../target/release/lpa"; do
    [ -n "$lpa" ] || { [ -x "$candidate" ] && lpa=$candidate; }
done
[ -n "$lpa" ] || { echo "gpu-check: there is no lpa here; make gpu-bundle builds one where Rust is" >&2; exit 1; }
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

name=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)
echo "## ${name:-unknown device}, $(date -u +%F)"
echo
echo '### The same bits as the CPU, and the speed of kernels'
echo
"$lpa" doctor --thorough --bench | tee "$work/doctor"
grep -q "all equal bit for bit" "$work/doctor" || { echo "gpu-check: no GPU was checked" >&2; exit 1; }

echo
echo '### compute-sanitizer'
echo
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck; do
        if compute-sanitizer --tool "$tool" --error-exitcode 9 "$lpa" doctor >"$work/$tool" 2>&1; then
            echo "- $tool: $(grep -E 'SUMMARY' "$work/$tool" | head -n 1)"
        else
            echo "- $tool FAILED:"
            tail -n 20 "$work/$tool"
            exit 1
        fi
    done
else
    echo "It is not installed here."
fi

echo
echo '### End to end'
echo
echo 'A run of 4,000,000 parameters and 40 steps, the whole command, the better of two; equal says that both tables'
echo 'are the same, byte for byte.'
echo
echo '| references | CPU, s | GPU, s | |'
echo '|---|---|---|---|'
"$lpa" simulate random-walk "$work/run" --dim 4000000 --steps 40 >"$work/said"
seconds() {
    best=
    for _ in 1 2; do
        rm -f "$work/$1.parquet"
        begin=$(date +%s.%N)
        "$lpa" analyze "$work/run" --quiet --backend "$1" --out "$work/$1.parquet" $2
        end=$(date +%s.%N)
        best=$(echo "$begin $end $best" | awk '{t = $2 - $1; if ($3 != "" && $3 < t) t = $3; printf "%.2f", t}')
    done
    echo "$best"
}
for count in 1 8 38 'update, 8'; do
    references=$(seq 1 "${count#update, }" | sed 's/^/--ref step:/')
    # Updates meet iterates 51 steps later too.
    case $count in update*) references="$references --stream grad --stream update" ;; esac
    cpu=$(seconds cpu "$references")
    gpu=$(seconds cuda "$references")
    cmp "$work/cpu.parquet" "$work/cuda.parquet"
    echo "| $count | $cpu | $gpu | equal |"
done

echo
echo "### The authors' formulas in PyTorch"
echo
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    "$python" "$here/torch_formulas.py"
else
    echo "There is no PyTorch with CUDA here."
fi
