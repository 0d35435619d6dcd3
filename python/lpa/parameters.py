"""The parameters of optimizers as a run's tensor table, and which part of each this rank writes."""

import itertools
import json

import torch
import torch.distributed as dist

from . import _lpa
from .dtypes import torch_name
from .errors import RecordingError, warn
from .optimizers import parameters_of
from .replicas import check_gradients, check_groups, replicas_in
from .sharding import cuts_of, is_dtensor, is_sharded, local
from .sketching import Sketches

# Slices that begin at multiples of the unit of storage leave every sum as one rank would have it.
_CHUNK = _lpa.CHUNK


class Parameters:
    """All parameters that the optimizers hold, in the order of their parameter groups.

    A parameter with several names (tied) is there once, under its first name in the model.

    Parameters
    ----------
    whole_model : the other parameters of the model are there too, each as a parameter group of its own: an optimizer
        may take them later.
    replicated : every rank holds all of them, and steps with the same gradients.
    alone : what every rank holds, rank 0 records alone.
    """

    def __init__(self, model, optimizers, *, whole_model=False, replicated=False, alone=False):
        named = names_in(model)
        self._optimizers = optimizers
        held = parameters_of(optimizers)
        if not held:
            raise RecordingError("the optimizer holds no parameters; nothing can be recorded")
        known = {id(p) for p in held}
        if named and not named.keys() & known:
            raise RecordingError(
                "the optimizer holds none of the model's parameters; is it another model's? With ZeRO or bf16 those of "
                "DeepSpeed hold flat copies, which have no layers: train with stage 0 in float32, or shard by "
                "fully_shard (FSDP2)")
        left_out = [p for p, _ in named.values() if id(p) not in known]
        # By optimizer and parameter group: which of the run's groups it is.
        counts = iter(range(len(optimizers.param_groups)))
        self.numbers = [[[next(counts)] for _ in o.param_groups] for o in optimizers.all]
        groups = [n for of_one, o in zip(self.numbers, optimizers.all, strict=True)
                  for (n,), group in zip(of_one, o.param_groups, strict=True) for _ in group["params"]]
        unnamed = [f"param_groups.{g}.{i}" for i, g in enumerate(groups)]
        later = left_out if whole_model else []
        self.params = held + later
        self.groups = groups + list(range(len(optimizers.param_groups), len(optimizers.param_groups) + len(later)))
        # The numbers of the tensors that no optimizer holds yet, and of those that each holds.
        self.later = list(range(len(held), len(self.params)))
        ends = [0, *itertools.accumulate(len(parameters_of(o)) for o in optimizers.all)]
        self.of = [list(range(a, b)) for a, b in itertools.pairwise(ends)]
        names = [named.get(id(p), (p, [other]))[1] for p, other in zip(held, unnamed, strict=True)]
        self.names = names + [named[id(p)][1] for p in later]
        self.ranks, self.rank = 1, 0
        self._replicas = [] if replicated or not has_ranks() else replicas_in(model)
        check_groups(self._replicas)
        spread = replicated or _is_distributed(model, self.params, self._replicas)
        if spread and not (alone and not any(map(is_sharded, self.params))):
            self.ranks, self.rank = dist.get_world_size(), dist.get_rank()
        for p, n in zip(self.params, self.names, strict=True):
            if torch_name(p.dtype) is None:
                raise RecordingError(f"parameter '{n[0]}' is {p.dtype}; a run holds float32, float16 and bfloat16")
        self._warned_of_sparse = False
        self._kinds = [(p.dtype, p.shape) for p in self.params]
        # All of every tensor lies here.
        self._is_plain = self.ranks == 1 and not any(is_dtensor(p) for p in self.params)
        self.slices = self._slices()
        # By tensor: the elements that this rank writes, as ranges; all of them where it is alone.
        self.own = {}
        for s in self.slices:
            if s["rank"] == self.rank:
                self.own.setdefault(s["tensor"], []).append((s["begin"], s["end"]))
        # Parameters of the model that no optimizer holds, unless all of them are frozen.
        self.left_out = [] if whole_model or not any(p.requires_grad for p in left_out) else [
            named[id(p)][1][0] for p in left_out]

    def table(self):
        """The rows of the manifest's tensor table."""
        rows = zip(self.params, self.names, self.groups, strict=True)
        return [{"name": n[0], "shape": list(p.shape), "dtype": torch_name(p.dtype), "param_group": g,
                 "aliases": n[1:]} for p, n, g in rows]

    def check(self):
        """Raises unless the optimizers hold the parameters of the first step still, and others of the model's where
        those are recorded; and unless all ranks step alike that should."""
        check_gradients(self._replicas)
        for which, optimizer in enumerate(self._optimizers.all):
            now, before = parameters_of(optimizer), [self.params[i] for i in self.of[which]]
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                self._join(which, optimizer, now)

    def _join(self, which, optimizer, now):
        known = {id(self.params[i]): i for i in (*self.of[which], *self.later)}
        of = [known.get(id(p)) for p in now]
        if None in of or not set(self.of[which]) <= set(of):
            raise RecordingError(
                f"the optimizer holds {len(now)} parameters, not the {len(self.of[which])} of the first step (or "
                "others). A run's tensors are fixed: add every parameter group before the first step, with lr 0 or "
                "frozen if it is to be trained later; or record all parameters of the model, by whole_model=True.")
        self.of[which], added = of, set(of) - set(self.of[which])
        self.later = [i for i in self.later if i not in added]
        for numbers, group in itertools.zip_longest(self.numbers[which], optimizer.param_groups):
            joined = [self.groups[i] for p in group["params"] if (i := known[id(p)]) in added]
            if numbers is None:
                self.numbers[which].append(joined)
            else:
                numbers += joined

    def gradients(self, tensors):
        """The gradients of some tensors as the optimizer would receive them now; None where there is none."""
        return [self.params[i].grad for i in tensors]

    def checked(self, tensors, values, what):
        """The values of some tensors, dense; raises unless they have the types and shapes of the parameters at the
        first step."""
        if len(values) != len(tensors):
            raise RecordingError(f"'{what}' has {len(values)} tensors, the optimizer {len(tensors)}")
        # One pass, and no more than it takes: the training waits.
        for at, i in enumerate(tensors):
            t = values[at]
            if t is None:
                continue
            if t.layout is not torch.strided:
                values[at] = t = self._dense(t, self.names[i][0], what)
            dtype, shape = self._kinds[i]
            if t.dtype is not dtype or t.shape != shape:
                raise RecordingError(
                    f"'{what}' of '{self.names[i][0]}' is {t.dtype} {list(t.shape)}, the parameter was {dtype} "
                    f"{list(shape)} at the first step; a run holds both in one type and shape")
            if self.ranks > 1 and is_dtensor(t) and t.placements != self.params[i].placements:
                raise RecordingError(f"'{what}' of '{self.names[i][0]}' is placed as {t.placements}, the parameter as "
                                     f"{self.params[i].placements}")
        return values

    def _dense(self, tensor, name, what):
        if not self._warned_of_sparse:
            self._warned_of_sparse = True
            warn(f"'{what}' of '{name}' is sparse and is recorded dense; where it has no entry it is recorded as 0")
        return tensor.to_dense()

    def aligned(self, tensors, what):
        """A dict of name -> tensor as a list in the table's order."""
        if not isinstance(tensors, dict):
            return list(tensors)
        rest = dict(tensors)
        found = [next((rest.pop(n) for n in names if n in rest), None) for names in self.names]
        if rest:
            raise RecordingError(f"{what}: the optimizer has no parameter named {sorted(rest)}")
        return found

    def parts(self, tensors, values):
        """The part of the values of some tensors that this rank writes."""
        if self._is_plain:
            return values
        if self.ranks == 1:
            return [None if t is None else local(t) for t in values]
        return [None if t is None else self._part(i, t) for i, t in zip(tensors, values, strict=True)]

    def as_they_are(self):
        """The part of each parameter that this rank writes."""
        return self.parts(range(len(self.params)), [p.detach() for p in self.params])

    def sketched(self, manifest):
        """Their sketches as a run with this manifest has them, where this rank holds all of them."""
        return Sketches(json.dumps(manifest)).sketch(self.as_they_are())

    def there(self, tensors, values, key):
        """Which of some tensors this rank writes elements of, and these."""
        parts = zip(tensors, self.parts(tensors, self.checked(tensors, values, key)), strict=True)
        there = [(i, part) for i, part in parts if part is not None and part.numel()]
        return [i for i, _ in there], [part for _, part in there]

    def _part(self, i, tensor):
        own, ranges = local(tensor), self.own.get(i, [])
        if sum(end - begin for begin, end in ranges) == own.numel():
            return own
        # Of what another rank has as well it writes a part, or nothing.
        begin, end = ranges[0] if ranges else (0, 0)
        return own.reshape(-1)[begin:end]

    def _slices(self):
        if self.ranks == 1:
            return []
        slices, at, replicated = [], 0, sum(_chunks(p) for p in self.params if not is_sharded(p))
        for i, p in enumerate(self.params):
            if is_sharded(p):
                try:
                    cuts = cuts_of(p, i)
                except ValueError as e:
                    raise RecordingError(f"'{self.names[i][0]}' {e}") from None
                slices += [{"tensor": i, "begin": b, "end": e, "rank": r} for r, b, e in cuts]
                continue
            # Every rank has all of it: the chunks of all such tensors are dealt out evenly.
            cuts = {}
            for c in range(_chunks(p)):
                rank = at * self.ranks // replicated
                begin, end = c * _CHUNK, min((c + 1) * _CHUNK, p.numel())
                cuts[rank] = (cuts.get(rank, (begin, end))[0], end)
                at += 1
            slices += [{"tensor": i, "begin": b, "end": e, "rank": r} for r, (b, e) in cuts.items()]
        return slices


def process_rank():
    """The rank of this process; 0 where it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def process_ranks():
    """How many processes train."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def has_ranks():
    """Whether several do."""
    return process_ranks() > 1


def all_of(model, optimizer):
    """The parameters of the model in its order, as `model.parameters()` gives them, and the optimizer's that are not
    among them."""
    if isinstance(model, torch.nn.Module):
        params = list(model.parameters())
    else:
        params = list({id(p): p for p in (model or {}).values()}.values())
    known = {id(p) for p in params}
    return params + [p for p in parameters_of(optimizer) if id(p) not in known]


# The names that these classes of wrappers give the module inside, and others use as well.
_WRAPPERS_OF = {"module": {"DistributedDataParallel", "DataParallel", "AveragedModel", "DeepSpeedEngine"},
                "_module": {"AbstractGradSampleModule", "GradSampleModule"}}


def names_in(model):
    """By id, each parameter and all its names, without what wrappers put into them."""
    if model is None:
        return {}
    if isinstance(model, dict):
        found = [(name, name, p) for name, p in model.items()]
    else:
        wrappers = _wrapper_names(model)
        found = [(name, _bare(name, wrappers), p) for name, p in model.named_parameters(remove_duplicate=False)]
    of = {}
    for _, bare, p in found:
        of.setdefault(bare, set()).add(id(p))
    named = {}
    for name, bare, p in found:
        # Two parameters keep what tells them apart.
        name = bare if len(of[bare]) == 1 else name
        names = named.setdefault(id(p), (p, []))[1]
        if name not in names:
            names.append(name)
    return named


def _wrapper_names(model):
    """The names of the modules inside wrappers."""
    wrappers = set()
    for name, module in model.named_modules(remove_duplicate=False):
        of_class = {kind.__name__ for kind in type(module).__mro__}
        prefix = f"{name}." if name else ""
        wrappers.update(prefix + inner for inner, classes in _WRAPPERS_OF.items() if classes & of_class)
        wrappers.update(prefix + inner for inner in _lpa.WRAPPERS if inner in module._modules)
    return wrappers


def _bare(name, wrappers):
    parts = name.split(".")
    return ".".join(part for i, part in enumerate(parts) if ".".join(parts[:i + 1]) not in wrappers)


def _is_distributed(model, params, replicas):
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    if any(type(m).__name__ == "FullyShardedDataParallel" for m in modules):
        raise RecordingError("FullyShardedDataParallel flattens parameters; use fully_shard (FSDP2)")
    if replicas or any(map(is_dtensor, params)):
        return True
    if has_ranks():
        raise RecordingError(
            "several ranks are training, but the model is neither DistributedDataParallel nor sharded by "
            "fully_shard, so lpa cannot know who holds what. Give the wrapped model; or, where every rank holds all "
            "parameters and steps with the same gradients, replicated=True.")
    return False


def _chunks(p):
    return -(-p.numel() // _CHUNK)
