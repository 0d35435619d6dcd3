"""Clipping gradients as PyTorch does, and telling every recording whose gradients they are."""

import threading
import weakref

import torch

from .errors import warn
from .optimizers import parameters_of
from .parameters import all_of
from .scalars import held

# The recordings that go on, of all threads; a signal's handler may end one while they are looked through.
_LIVE = weakref.WeakSet()
_LOCK = threading.RLock()

# What each thread has clipped last, as `clip`.
_LAST = threading.local()


class Clipping:
    """What one recording knows of clipping: the coefficient by which its gradients were multiplied last."""

    def __init__(self, model, optimizer, log):
        self._model, self._optimizer, self._log = model, optimizer, log
        self._coefficient, self._marks, self._own = None, [], False
        self._warned = False
        with _LOCK:
            _LIVE.add(self)

    def clip(self, max_norm, norm_type, parameters, options):
        """Clips, and notes the coefficient for all recordings. Returns the norm before."""
        params = all_of(self._model, self._optimizer) if parameters is None else _listed(parameters)
        how = max_norm, norm_type
        last = getattr(_LAST, "clip", None)
        if last is not None and last.is_of_others(self, params, how):
            # Another recording of these gradients has clipped them already.
            self._own = True
            last.by.add(self)
            return last.norm
        clipped = {id(p) for p in params}
        with _LOCK:
            # Another thread's backward pass may be writing the gradients of the others.
            live = [c for c in _LIVE if any(id(p) in clipped for p in parameters_of(c._optimizer))]
        untouched = {id(c): _are(c._marks, _graded(c._optimizer)) for c in live}
        norm = torch.nn.utils.clip_grad_norm_(params, max_norm, norm_type, **options)
        coefficient = torch.clamp(max_norm / (norm.detach() + 1e-6), max=1.0)
        for other in live:
            other._take(clipped, coefficient, untouched[id(other)], own=other is self)
        _LAST.clip = _Last(how, _marks([p for p in params if p.grad is not None]), norm, weakref.WeakSet([self]))
        return norm

    def _take(self, clipped, coefficient, untouched, own):
        """Notes that parameters were clipped; `untouched` says that nothing was done to the gradients since they were
        clipped last."""
        mine = _graded(self._optimizer)
        among = sum(id(p) in clipped for p in mine)
        if among == 0:
            return
        if among < len(mine):
            self.forget()
            if not self._warned:
                self._warned = True
                warn("some of the optimizer's gradients were clipped and some were not; no clip_coef is recorded for "
                     "such a step")
            return
        if untouched and self._coefficient is not None:
            coefficient, own = self._coefficient * coefficient, own or self._own
        self._coefficient, self._marks, self._own = coefficient, _marks(mine), own
        self._log.next["clip_coef"] = held("clip_coef", coefficient)

    def step(self):
        """A step begins: drops what another recording noted if these are other gradients by now."""
        if self._coefficient is not None and not self._own and not _are(self._marks, _graded(self._optimizer)):
            self._log.next.pop("clip_coef", None)
        self._coefficient, self._marks = None, []

    def forget(self):
        """Knows of no coefficient any more."""
        self._coefficient, self._marks = None, []
        self._log.next.pop("clip_coef", None)

    def end(self):
        """The recording is over."""
        with _LOCK:
            _LIVE.discard(self)


class _Last:
    """What a thread has clipped last, by which recordings."""

    def __init__(self, how, marks, norm, by):
        self.how, self._marks, self.norm, self.by = how, marks, norm, by

    def is_of_others(self, clipping, params, how):
        """Whether these very gradients were clipped like this by other recordings only, and are as that left them."""
        known = self.how == how and clipping not in self.by
        return known and _are(self._marks, [p for p in params if p.grad is not None])


def _listed(parameters):
    return [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)


def _graded(optimizer):
    return [p for p in parameters_of(optimizer) if p.grad is not None]


def _version(tensor):
    return 0 if tensor.is_inference() else tensor._version


def _marks(params):
    """What tells whether gradients are still what they are now, without holding them."""
    return [(weakref.ref(p.grad), _version(p.grad)) for p in params]


def _are(marks, params):
    """Whether the gradients of the parameters are as they were marked."""
    same = lambda mark, p: mark[0]() is p.grad and mark[1] == _version(p.grad)
    return len(marks) == len(params) and all(same(m, p) for m, p in zip(marks, params, strict=True))
