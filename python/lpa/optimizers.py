"""The optimizers whose steps are recorded, as one, without what frameworks put around them."""

import sys

import torch

from .errors import RecordingError

# Where wrappers keep what they wrap: Accelerate, Lightning and Fabric, Opacus.
_INNER = ("optimizer", "original_optimizer")

# What PyTorch puts around every optimizer's `step`; the hooks run inside.
_STEP_WRAPPER = torch.optim.Optimizer.profile_hook_step(lambda self: None).__code__


class Optimizers:
    """One optimizer or several, in the order in which they were given.

    Parameters
    ----------
    given : an optimizer, what a framework has made of one, or several of these in a list or a dict.
    """

    def __init__(self, given):
        several = given.values() if isinstance(given, dict) else given
        several = several if isinstance(several, (list, tuple, type({}.values()))) else [given]
        self.all = [_unwrapped(o) for o in several]
        if not self.all:
            raise RecordingError("there is no optimizer in the list")
        seen = set()
        for p in parameters_of(self):
            if id(p) in seen:
                raise RecordingError("a parameter is in two of the optimizers; its steps would be of neither")
            seen.add(id(p))

    @property
    def param_groups(self):
        """The parameter groups of all, one after the other."""
        return [group for o in self.all for group in o.param_groups]

    def steppers(self):
        """(which, an optimizer whose `step` takes a step of that one): each itself, and what it holds of the same
        parameters, since some are stepped in parts (SAM's first and second)."""
        for which, optimizer in enumerate(self.all):
            yield which, optimizer
            yield from ((which, inner) for inner in _held(optimizer))


def steps_under_way(optimizer, thread=None):
    """How many calls of an optimizer's `step` have begun and not ended in a thread; by default in this one."""
    return _steps_in(sys._getframe(1) if thread is None else sys._current_frames().get(thread), optimizer)


def is_stepping(optimizer):
    """Whether a call of an optimizer's `step` has begun and not ended in any thread."""
    return any(_steps_in(frame, optimizer) for frame in sys._current_frames().values())


def _steps_in(frame, optimizer):
    calls = 0
    while frame is not None:
        if frame.f_code is _STEP_WRAPPER and frame.f_locals.get("args", (None,))[0] is optimizer:
            calls += 1
        frame = frame.f_back
    return calls


def parameters_of(optimizer):
    """All parameters that an optimizer holds, or :class:`Optimizers` do, in the order of their parameter groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def name_of(optimizer):
    """The name by which the analysis knows an optimizer; its full name where it knows none."""
    kind = torch_class(optimizer)
    return _full_name(type(optimizer)) if kind is None else kind.__name__.lower()


def torch_class(optimizer):
    """PyTorch's own class whose `step` an optimizer runs, also in a class that is derived from it; None where it runs
    another."""
    for kind in type(optimizer).__mro__:
        own = kind.__module__ == "torch.optim" or kind.__module__.startswith("torch.optim.")
        if own and kind is not torch.optim.Optimizer:
            return kind if _function(type(optimizer).step) is _function(kind.step) else None
    return None


def _function(step):
    """What is inside the wrappers that PyTorch puts around `step`."""
    while hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    return step


def _has_hooks(optimizer):
    # Wrappers pass on what they do not have themselves.
    return "_optimizer_step_pre_hooks" in getattr(optimizer, "__dict__", {})


def _unwrapped(given):
    """The optimizer whose hooks run: `given`, or what it wraps."""
    optimizer = given
    while not _has_hooks(optimizer):
        within = (getattr(optimizer, name, None) for name in _INNER)
        optimizer = next((o for o in within if hasattr(o, "param_groups") and o is not optimizer), None)
        if optimizer is None:
            raise RecordingError(
                f"{_full_name(type(given))} is no optimizer of PyTorch: its steps call no hooks. Give the "
                "torch.optim.Optimizer inside it if it has one, or record with lpa.Writer")
    if not getattr(type(optimizer).step, "hooked", False):
        # It was not made by PyTorch's constructor, and would call its hooks from its first zero_grad() on only.
        optimizer._patch_step_function()
    return optimizer


def _full_name(kind):
    return f"{kind.__module__}.{kind.__qualname__}"


def _held(optimizer):
    """The optimizers inside one that hold the same parameters."""
    mine = {id(p) for p in parameters_of(optimizer)}
    others = [o for o in vars(optimizer).values() if isinstance(o, torch.optim.Optimizer) and _has_hooks(o)]
    return [o for o in others if {id(p) for p in parameters_of(o)} == mine]
