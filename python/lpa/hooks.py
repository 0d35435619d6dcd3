"""The hooks of recordings on optimizers: how they come, and how they go. What they do is the recorder's."""

import threading
import weakref

import torch

from .optimizers import is_stepping

# The pre-hooks of all recordings: they change nothing that the others record.
_OWN = set()
# Those of recordings that are over, on optimizers that were stepping then: PyTorch goes through them meanwhile.
_LEFT = []
# A signal's handler may come while it is held.
_LOCK = threading.RLock()


class Hooks:
    """Those of one recording, which they keep alive until they are removed."""

    def __init__(self):
        # What is called, and where it is registered.
        self._calls, self._all = [], []

    def add(self, stepper, before, after):
        """Has `before` and `after`, methods, called around each step of `stepper`."""
        _sweep()
        calls = [_Call(before), _Call(after)]
        self._calls += calls
        pre, post = stepper.register_step_pre_hook(calls[0].hook), stepper.register_step_post_hook(calls[1].hook)
        _OWN.add(pre.id)
        self._all += [(weakref.ref(stepper), hook) for hook in (pre, post)]

    def remove(self):
        """They do nothing any more, and are taken off: now, or later where the optimizer is stepping."""
        for call in self._calls:
            call.method = None
        _LEFT.extend(self._all)
        self._calls, self._all = [], []
        _sweep()


def is_last(stepper):
    """Whether no other hook than lpa's own was registered after these."""
    newest = next(reversed(stepper._optimizer_step_pre_hooks), None)
    return newest is None or newest in _OWN


def _sweep():
    with _LOCK:
        for left in list(_LEFT):
            stepper, hook = left[0](), left[1]
            if left in _LEFT and (stepper is None or not is_stepping(stepper)):
                _LEFT.remove(left)
                _OWN.discard(hook.id)
                hook.remove()


class _Call:
    """A hook that calls a method, while there is one."""

    def __init__(self, method):
        self.method = method

    @torch.compiler.disable
    def hook(self, *args):
        return None if self.method is None else self.method(*args)
