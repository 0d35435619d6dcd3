"""Which steps have their vectors recorded."""


def sampler(sample):
    """A function of the step from what a user gives: None, k, (n, m) or a function."""
    if sample is None:
        return lambda step: True
    if callable(sample):
        return sample
    if isinstance(sample, int) and not isinstance(sample, bool) and sample > 0:
        return lambda step: step % sample == 0
    if isinstance(sample, tuple) and len(sample) == 2 and 0 < sample[0] <= sample[1]:
        return lambda step: step % sample[1] < sample[0]
    raise ValueError(f"sample is None, every k-th (k), n of every m (n, m) or a function of the step, not {sample!r}")
