"""Numbers that are recorded with a step: held so that they cannot change, and read without waiting."""

import torch

from .optimizers import parameters_of


class _OnItsWay:
    """A number that is on its way from the device; whoever reads it waits for it, and for nothing later."""

    def __init__(self, value):
        self._there = torch.empty((), dtype=value.dtype, device="cpu", pin_memory=True)
        self._there.copy_(value.detach().reshape(()), non_blocking=True)
        self._event = torch.cuda.current_stream(value.device).record_event()

    def __float__(self):
        self._event.synchronize()
        return float(self._there)


def held(name, value):
    """The value as it is now, if it is one number."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        return _OnItsWay(value) if value.is_cuda else float(value.detach())
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"'{name}' is no number but {value!r:.60}; scalars are numbers, or tensors of one "
                        "element") from None


class Log:
    """To which step a logged value belongs.

    A name that is first logged before any backward pass, or after that of the first step, belongs to the
    step that follows; any other to the step that was taken last.
    """

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self._at_start = self._gradients()
        self._before, self._undecided = set(), {}
        # Values for the step that follows.
        self.next = {}

    def _gradients(self):
        return [p.grad for p in parameters_of(self._optimizer)]

    def _has_none_since(self, gradients):
        now = self._gradients()
        return len(now) == len(gradients) and all(a is b for a, b in zip(now, gradients, strict=True))

    def take(self, name, value, step, begun):
        """Keeps a value for the step that follows, or gives it to `step`, the last one. False if there is none."""
        if name in self._before:
            self.next[name] = value
        elif step is not None:
            # A scaler may skip steps: what is logged after one is not of the step before it.
            if name not in step.logged:
                step.scalars[name] = value
                step.logged.add(name)
        elif begun:
            return False
        elif self._has_none_since(self._at_start):
            self._before.add(name)
            self.next[name] = value
        else:
            # Either this backward pass is the first step's, or its step was skipped by a scaler.
            self._undecided[name] = value, self._gradients()
        return True

    def first_step(self):
        """The first step begins: its gradients tell what was logged for it."""
        for name, (value, gradients) in self._undecided.items():
            if self._has_none_since(gradients):
                self._before.add(name)
                self.next[name] = value
        self._undecided, self._at_start = {}, []
