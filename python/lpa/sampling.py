"""Which steps have their vectors recorded."""

import numbers
import re


def sampler(sample):
    """A function of the step and the epoch from what a user gives: None, k, (n, m), "epochs A..B" or a function."""
    if sample is None:
        return lambda step, epoch: True
    if callable(sample):
        return lambda step, epoch: sample(step)
    if isinstance(sample, numbers.Integral) and not isinstance(sample, bool) and sample > 0:
        return lambda step, epoch: step % sample == 0
    if isinstance(sample, tuple) and len(sample) == 2 and 0 < sample[0] <= sample[1]:
        return lambda step, epoch: step % sample[1] < sample[0]
    epochs = re.fullmatch(r"epochs (\d+)\.\.(\d*)", sample) if isinstance(sample, str) else None
    if epochs is not None:
        first, end = int(epochs[1]), float(epochs[2] or "inf")
        if first < end:
            # What comes before the first epoch is logged is a part of epoch 0.
            return lambda step, epoch: first <= (epoch or 0) < end
    raise ValueError("sample is None, every k-th (k), n of every m (n, m), 'epochs A..B' (B not included) or a "
                     f"function of the step, not {sample!r}")
