"""Whether the parameters are at a step what the step before left of them.

They are clamped, normalised, averaged, cast or reloaded between two steps: the path is then not the optimizer's. A few
elements of every tensor are compared, all of a small one; what is swapped out and back is not seen, and need not be.
"""

import numpy as np
import torch

from .errors import warn
from .sharding import is_dtensor, local

# The scalar that says how many tensors were changed outside of the optimizer since the step before.
CHANGED = "lpa/changed"

# Elements of a tensor that are compared.
_ELEMENTS = 16

# Putting weights back that were averaged may round: relative to the largest of the elements.
_ROUNDING = 8 * 2.0**-24


class Watch:
    """Compares the parameters before a step with what the step before left."""

    def __init__(self, parameters):
        self._parameters = parameters
        self._warned = self._last = False
        # By optimizer; what none holds is not watched.
        self._of = [_Few(parameters, tensors) for tensors in parameters.of]

    def note(self, which):
        """Notes what a step of an optimizer left."""
        self._of[which].note(self._parameters.of[which])

    def changed(self, which=None):
        """What tells which tensors were changed since, of one optimizer or of each; nothing where nothing was noted."""
        of = self._of if which is None else [self._of[which]]
        return [c for few in of if (c := few.changed()) is not None]

    def sample(self, which):
        """A few elements of what an optimizer holds, as they are now."""
        return self._of[which].sample()

    def scalars(self, comparisons, step=None):
        """The scalar of x_step, where tensors were changed before it; warns of the first time, and of x_T (None)."""
        tensors = sorted({i for c in comparisons for i in c.tensors()})
        usual, self._last = self._last, bool(tensors)
        if not tensors:
            return []
        names = ", ".join(f"'{self._parameters.names[i][0]}'" for i in tensors[:3])
        names += f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
        # What is clamped after every step is clamped after the last one too.
        if step is None and not usual:
            warn(f"the final iterate is not what the last step left of {names}; does the model hold averaged or other "
                 "weights? It is recorded as it is, and is no iterate of the optimizer. To record that, put the "
                 "training's own weights back before close().")
        elif step is not None and not self._warned:
            self._warned = True
            warn(f"{names} changed outside of the optimizer between steps {step - 1} and {step}. That is recorded; "
                 "less is known of the steps before it (docs/recording.md).")
        return [(CHANGED, len(tensors))]


class _Few:
    """A few elements of each of some tensors."""

    def __init__(self, parameters, tensors):
        self._params, self._tensors = parameters.params, None
        self._places, self._views = [], []
        self._left = None
        self._take(tensors)

    def _take(self, tensors):
        self._tensors = list(tensors)
        self._is_plain = not any(is_dtensor(self._params[i]) for i in tensors)

    def note(self, tensors):
        """Notes what the tensors hold now."""
        if tensors != self._tensors:
            self._take(tensors)
        self._left = self.sample()

    def changed(self):
        """What tells which of them were changed since; None where nothing was noted."""
        return None if self._left is None else Comparison(self._left, self.sample())

    def sample(self):
        """What they hold now."""
        params = [self._params[i] for i in self._tensors]
        own = params if self._is_plain else [local(p) for p in params]
        places = [t.data_ptr() for t in own]
        if places != self._places:
            # At first, and where `.data` was replaced.
            self._places = places
            by_device = {}
            for i, t in zip(self._tensors, own, strict=True):
                by_device.setdefault(t.device, []).append((i, _view(t.detach())))
            self._views = [tuple(zip(*of_device, strict=True)) for of_device in by_device.values()]
        return [_Sample(which, views) for which, views in self._views]


class _Sample:
    """Elements of the tensors of a device, which are read without waiting for it."""

    def __init__(self, which, views):
        self.which, self._views = which, views
        self._values, self._event = torch.cat(views).float(), None
        if self._values.is_cuda:
            there = torch.empty(self._values.shape, dtype=self._values.dtype, device="cpu", pin_memory=True)
            there.copy_(self._values, non_blocking=True)
            self._event = torch.cuda.current_stream(self._values.device).record_event()
            self._values = there

    @property
    def sizes(self):
        """How many elements each tensor has."""
        return [v.numel() for v in self._views]

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
            a, b = before.values(), after.values()
            if np.array_equal(a.view(np.int32), b.view(np.int32)):
                continue
            sizes = before.sizes
            if before.which != after.which or sizes != after.sizes:
                changed += sorted({*before.which, *after.which})
                continue
            ends = np.cumsum(sizes)[:-1]
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
    """A few elements of a tensor, as a view of it in one dimension."""
    n = own.numel()
    if own.is_contiguous():
        if n <= _ELEMENTS:
            return own.view(-1)
        # Odd where there is room, so that rows of a usual length are not all met in one column (of a pixel that is
        # always black, say).
        stride = n // _ELEMENTS
        return own.as_strided((_ELEMENTS,), (stride | 1 if n >= _ELEMENTS**2 else stride,))
    # Its diagonal, wherever that lies.
    lengths, strides = zip(*((d, s) for d, s in zip(own.shape, own.stride(), strict=True) if d > 1), strict=True)
    return own.as_strided((min(_ELEMENTS, *lengths),), (sum(strides),))
