"""The sums as the paper's authors take them, in PyTorch on a GPU, beside float64: what a step costs and loses.

Prints Markdown. Everything lies on the device already, as for the kernels of `lpa doctor --bench`.
"""

import statistics

import torch

N, RUNS = 1 << 26, 15


def milliseconds(run):
    times = []
    for i in range(RUNS + 1):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if i:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def sums(g, x, r):
    d = x - r
    return torch.norm(d), torch.norm(g), torch.dot(d, g)


def main():
    torch.manual_seed(0)
    # Late in a training: d is a thousandth of x, and the gradient is nearly orthogonal to it.
    x, g = torch.randn(N, device="cuda"), torch.randn(N, device="cuda") * 1e-3
    r = x + torch.randn(N, device="cuda") * 1e-3
    exact = sums(*(v.double() for v in (g, x, r)))
    found = sums(g, x, r)
    off = [abs(float(f) - float(e)) / abs(float(e)) for f, e in zip(found, exact, strict=True)]
    print(f"{N:,} elements, 3 sums of g, x and r in float32, 12 bytes an element:")
    print()
    print("| | ms | GB/s | distance, off by | norm of g, off by | product, off by |")
    print("|---|---|---|---|---|---|")
    for name, run in [
        ("float32", lambda: sums(g, x, r)),
        ("float64", lambda: sums(g.double(), x.double(), r.double())),
    ]:
        ms = milliseconds(run)
        errors = " | ".join(f"{e:.1e}" for e in off) if name == "float32" else "- | - | -"
        print(f"| PyTorch {torch.__version__}, {name} | {ms:.2f} | {12 * N / ms / 1e6:.0f} | {errors} |")


if __name__ == "__main__":
    main()
