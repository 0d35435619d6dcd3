"""The parameters of an optimizer as a run's tensor table, and which part of each this rank writes."""

import torch
import torch.distributed as dist

from . import _lpa
from .dtypes import torch_name
from .errors import RecordingError, warn

# Slices that begin at multiples of the unit of storage leave every sum as one rank would have it.
_CHUNK = _lpa.CHUNK


class Parameters:
    """All parameters that an optimizer holds, in the order of its parameter groups.

    A parameter with several names (tied) is there once, under its first name in the model.
    """

    def __init__(self, model, optimizer):
        named = _named(model)
        self.optimizer = optimizer
        self.params = parameters_of(optimizer)
        self.groups = [g for g, group in enumerate(optimizer.param_groups) for _ in group["params"]]
        if not self.params:
            raise RecordingError("the optimizer holds no parameters; nothing can be recorded")
        unnamed = [f"param_groups.{g}.{i}" for i, g in enumerate(self.groups)]
        self.names = [named.get(id(p), (p, [other]))[1] for p, other in zip(self.params, unnamed, strict=True)]
        self.ranks, self.rank = 1, 0
        if _is_distributed(model, self.params):
            self.ranks, self.rank = dist.get_world_size(), dist.get_rank()
        for p, n in zip(self.params, self.names, strict=True):
            if torch_name(p.dtype) is None:
                raise RecordingError(f"parameter '{n[0]}' is {p.dtype}; a run holds float32, float16 and bfloat16")
        self._warned_of_sparse = False
        self._kinds = [(p.dtype, p.shape) for p in self.params]
        self.slices = self._slices()
        own = [s for s in self.slices if s["rank"] == self.rank]
        self._own = {s["tensor"]: (s["begin"], s["end"]) for s in own}
        known = {id(p) for p in self.params}
        left_out = [(p, n[0]) for p, n in named.values() if id(p) not in known]
        # Parameters of the model that the optimizer does not hold, unless all of them are frozen.
        self.left_out = [name for _, name in left_out] if any(p.requires_grad for p, _ in left_out) else []

    def table(self):
        """The rows of the manifest's tensor table."""
        rows = zip(self.params, self.names, self.groups, strict=True)
        return [{"name": n[0], "shape": list(p.shape), "dtype": torch_name(p.dtype), "param_group": g,
                 "aliases": n[1:]} for p, n, g in rows]

    def check(self):
        """Raises unless the optimizer holds the parameters of the first step still."""
        now = parameters_of(self.optimizer)
        if len(now) != len(self.params) or any(a is not b for a, b in zip(now, self.params, strict=True)):
            raise RecordingError(
                f"the optimizer holds {len(now)} parameters, not the {len(self.params)} of the first step (or other "
                "ones). A run's tensors are fixed: add every parameter group before the first step, with lr 0 "
                "or frozen if it is to be trained later.")

    def gradients(self):
        """The gradients as the optimizer would receive them now; None where there is none."""
        return [p.grad for p in self.params]

    def checked(self, tensors, what):
        """The tensors, dense; raises unless they have the types and shapes of the parameters at the first step."""
        if len(tensors) != len(self.params):
            raise RecordingError(f"'{what}' has {len(tensors)} tensors, the optimizer {len(self.params)}")
        # One pass, and no more than it takes: the training waits.
        for i, t in enumerate(tensors):
            if t is None:
                continue
            if t.layout is not torch.strided:
                tensors[i] = t = self._dense(t, self.names[i][0], what)
            dtype, shape = self._kinds[i]
            if t.dtype is not dtype or t.shape != shape:
                raise RecordingError(
                    f"'{what}' of '{self.names[i][0]}' is {t.dtype} {list(t.shape)}, the parameter was {dtype} "
                    f"{list(shape)} at the first step; a run holds both in one type and shape")
            if self.ranks > 1 and is_dtensor(t) and t.placements != self.params[i].placements:
                raise RecordingError(f"'{what}' of '{self.names[i][0]}' is placed as {t.placements}, the parameter as "
                                     f"{self.params[i].placements}")
        return tensors

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

    def parts(self, tensors):
        """The part of each tensor that this rank writes."""
        if self.ranks == 1:
            return [None if t is None else local(t) for t in tensors]
        return [None if t is None else self._part(i, t) for i, t in enumerate(tensors)]

    def _part(self, i, tensor):
        own = local(tensor)
        if _is_sharded(tensor):
            return own
        begin, end = self._own.get(i, (0, 0))
        return own if end - begin == own.numel() else own.reshape(-1)[begin:end]

    def _slices(self):
        if self.ranks == 1:
            return []
        slices, at, replicated = [], 0, sum(_chunks(p) for p in self.params if not _is_sharded(p))
        for i, p in enumerate(self.params):
            if _is_sharded(p):
                slices += [{"tensor": i, "begin": b, "end": e, "rank": r} for r, (b, e) in enumerate(_shards(p))]
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


def parameters_of(optimizer):
    """All parameters that an optimizer holds, in the order of its parameter groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def all_of(model, optimizer):
    """The parameters of the model in its order, as `model.parameters()` gives them, and the optimizer's that are not
    among them."""
    if isinstance(model, torch.nn.Module):
        params = list(model.parameters())
    else:
        params = list({id(p): p for p in (model or {}).values()}.values())
    known = {id(p) for p in params}
    return params + [p for p in parameters_of(optimizer) if id(p) not in known]


def _named(model):
    """By id, each parameter and all its names, without what wrappers put before them."""
    if model is None:
        return {}
    model = _unwrapped(model)
    pairs = model.items() if isinstance(model, dict) else model.named_parameters(remove_duplicate=False)
    named = {}
    for name, p in pairs:
        parts = [part for part in name.split(".") if part != "_orig_mod"]
        if isinstance(model, torch.nn.parallel.DistributedDataParallel) and parts[0] == "module":
            parts = parts[1:]
        named.setdefault(id(p), (p, []))[1].append(".".join(parts))
    return named


def _unwrapped(model):
    """What torch.compile was given."""
    return getattr(model, "_orig_mod", model)


def _is_distributed(model, params):
    model = _unwrapped(model)
    if isinstance(model, torch.nn.parallel.DistributedDataParallel) or any(is_dtensor(p) for p in params):
        return True
    if any(type(m).__name__ == "FullyShardedDataParallel" for m in getattr(model, "modules", list)()):
        raise RecordingError("FullyShardedDataParallel flattens parameters; use fully_shard (FSDP2)")
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise RecordingError(
            "several ranks are training, but the model is neither DistributedDataParallel nor sharded by "
            "fully_shard, so lpa cannot know who holds what. Give the wrapped model.")
    return False


def is_dtensor(t):
    """Whether a tensor is spread over several ranks."""
    return hasattr(t, "placements") and hasattr(t, "to_local")


def local(t):
    """The part of a tensor that lies here."""
    return t.to_local() if is_dtensor(t) else t


def _is_sharded(p):
    return is_dtensor(p) and any(place.is_shard() for place in p.placements)


def _chunks(p):
    return -(-p.numel() // _CHUNK)


def _shards(p):
    """The elements of each rank, for a tensor that is cut along its first dimension."""
    if len(p.placements) != 1 or not p.placements[0].is_shard(0):
        raise RecordingError(f"a parameter is placed as {p.placements}; lpa records Shard(0) over all ranks")
    ranks = p.device_mesh.size()
    if ranks != dist.get_world_size():
        raise RecordingError("a parameter is sharded over some of the ranks only; lpa records it over all")
    rows = p.shape[0]
    row = p.numel() // rows if rows else 0
    # As torch.chunk cuts: full parts first, the last ones may be empty.
    full = -(-rows // ranks)
    return [(min(r * full, rows) * row, min((r + 1) * full, rows) * row) for r in range(ranks)]
