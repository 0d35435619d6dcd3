"""Whether the parameters are at a step what the step before left of them.

They are clamped, normalised, averaged, cast or reloaded between two steps: the path is then not the optimizer's. A few
elements of every tensor are compared, all of a small one; what is swapped out and back is not seen, and need not be.
"""

import warnings

import numpy as np
import torch

from .parameters import local

# The scalar that says how many tensors were changed outside of the optimizer since the step before.
CHANGED = "lpa/changed"

# Elements of a tensor that are compared: so many runs of as many.
_RUNS, _LENGTH = 4, 4

# Putting weights back that were averaged may round: relative to the largest of the elements.
_ROUNDING = 8 * 2.0**-24


class Watch:
    """Compares the parameters before a step with what the step before left."""

    def __init__(self, parameters):
        self._params, self._names = parameters.params, [n[0] for n in parameters.names]
        self._warned = self._last = False
        self._views = [None] * len(self._params)
        self._places = [None] * len(self._params)
        self._left = None

    def note(self):
        """Notes what a step left."""
        self._left = self._sample()

    def changed(self):
        """What tells which tensors were changed since; None where nothing was noted."""
        return None if self._left is None else Comparison(self._left, self._sample())

    def scalars(self, comparisons, step=None):
        """The scalar of x_step, where tensors were changed before it; warns of the first time, and of x_T (None)."""
        tensors = sorted({i for c in comparisons if c is not None for i in c.tensors()})
        usual, self._last = self._last, bool(tensors)
        if not tensors:
            return []
        names = ", ".join(f"'{self._names[i]}'" for i in tensors[:3])
        names += f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
        # What is clamped after every step is clamped after the last one too.
        if step is None and not usual:
            warnings.warn(f"lpa: the final iterate is not what the last step left of {names}; does the model hold "
                          "averaged or other weights? It is recorded as it is, and is no iterate of the optimizer. To "
                          "record that, put the training's own weights back before close().", stacklevel=7)
        elif step is not None and not self._warned:
            self._warned = True
            warnings.warn(f"lpa: {names} changed outside of the optimizer between steps {step - 1} and {step}. That is "
                          "recorded; less is known of the steps before it (docs/recording.md).", stacklevel=7)
        return [(CHANGED, len(tensors))]

    def _sample(self):
        by_device = {}
        for i, p in enumerate(self._params):
            own = local(p)
            # `.data` may have been replaced.
            place = own.data_ptr(), own.dtype, own.shape
            if place != self._places[i]:
                self._places[i], self._views[i] = place, _view(own.detach())
            by_device.setdefault(own.device, []).append(i)
        return [_Sample(which, [self._views[i] for i in which]) for which in by_device.values()]


class _Sample:
    """Elements of the tensors of a device, which are read without waiting for it."""

    def __init__(self, which, views):
        self.which, self.sizes = which, [v.numel() for v in views]
        self._values, self._event = torch.cat([v.reshape(-1) for v in views]).float(), None
        if self._values.is_cuda:
            there = torch.empty(self._values.shape, dtype=self._values.dtype, pin_memory=True)
            there.copy_(self._values, non_blocking=True)
            self._event = torch.cuda.current_stream(self._values.device).record_event()
            self._values = there

    def values(self):
        """All elements, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.cpu().numpy()


class Comparison:
    """The elements that a step left, and those at the next one."""

    def __init__(self, before, after):
        self._before, self._after = before, after

    def tensors(self):
        """The numbers of the tensors that were changed."""
        changed = []
        for before, after in zip(self._before, self._after, strict=False):
            if before.which != after.which or before.sizes != after.sizes:
                changed += sorted({*before.which, *after.which})
                continue
            a, b = before.values(), after.values()
            if np.array_equal(a.view(np.int32), b.view(np.int32)):
                continue
            ends = np.cumsum(before.sizes)[:-1]
            pairs = zip(before.which, np.split(a, ends), np.split(b, ends), strict=True)
            changed += [i for i, x, y in pairs if _differ(x, y)]
        return changed


def _differ(before, after):
    """Whether elements differ by more than rounding."""
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.max(np.abs(before), initial=0, where=np.isfinite(before))
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        return bool((~same & ~(np.abs(after - before) <= _ROUNDING * scale)).any())


def _view(own):
    """A few elements of a tensor, as a view of it."""
    n = own.numel()
    if own.is_contiguous():
        return own.reshape(-1) if n <= _RUNS * _LENGTH else own.as_strided((_RUNS, _LENGTH), (n // _RUNS, 1))
    # The first and the last of the first dimensions, and the first of others.
    return own[tuple(slice(None, None, max(1, s - 1)) if d < _RUNS else slice(0, 1) for d, s in enumerate(own.shape))]
