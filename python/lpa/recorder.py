"""Records a PyTorch training: what the optimizers receive and what they make of it, step by step.

The optimizers' hooks copy each vector into a buffer; everything else happens on a thread of the
Rust library. A step is handed over when the next one begins, so that what is logged after it is
among its scalars. Of several optimizers each has a turn in a step.
"""

import atexit
import contextlib
import functools
import json
import numbers
import os
import threading
import time

import torch

from . import hyperparameters
from .clipping import Clipping
from .destination import Destination
from .directions import DIRECTIONS, LACKING, moment_names, moments, probe
from .errors import RecordingError, RecordingStopped, warn
from .hooks import Hooks, is_last
from .interrupts import Interrupts
from .optimizers import Optimizers, steps_under_way, torch_class
from .parameters import Parameters, all_of, has_ranks, process_rank
from .places import absolute
from .sampling import sampler
from .scalars import Log, held
from .session import Broken, Gradients, Session, Step, Turn
from .sharding import is_sharded
from .watch import Comparison
from .work import Work
from .writer import precisions, sketching, storage_options

__all__ = ["Recorder", "RecordingError", "RecordingStopped", "record"]

# Seconds between two looks whether a step of another thread has ended.
_BETWEEN_LOOKS = 0.002


def record(path, model, optimizer, **options):
    """Starts to record a training. See :class:`Recorder`."""
    return Recorder(path, model, optimizer, **options)


class Recorder:
    """Records every step of an optimizer into a run directory. A context manager.

    Parameters
    ----------
    path : the run directory, which must not hold a run yet.
    model : names the parameters: a module, or a dict of name -> parameter.
    optimizer : whose steps are recorded, with all its parameter groups added; what Accelerate, Lightning, Fabric or
        Opacus have made of it; or a list of several, whose run is one.
    sample : which steps have their vectors recorded (scalars always are): None, every step; k, every
        k-th; (n, m), n consecutive of every m; "epochs A..B" (B not included; log `epoch` as it begins);
        or a function of the step.
    streams : what else is recorded: "momentum", "adam" (the optimizer's own directions after the
        step), or names that :meth:`stream` will give.
    scaler : a GradScaler, whose scale is recorded.
    metadata : a dict of anything: git commit, configuration.
    resume : go on with a run. True finds the step whose iterate the model holds now (load the
        checkpoint first); a number is the step. Other ranks than before go on in a run beside it, `path-2`.
    policy : when the buffers are full, "block" waits for the disk; "drop" gives the step's vectors
        up, records its scalars and says so in the journal.
    turns : of several optimizers. "together": a step is one step of each (of those that stepped before one of them
        comes again); "each": every optimizer's step is one, at which the other parameters have no gradient.
    whole_model : record the parameters too that no optimizer holds yet, so that they may join one later.
    replicated : every rank holds all parameters and steps with the same gradients, though the model does not show it
        (what is inside a DistributedDataParallel, or another library's).
    buffer_steps : how many steps the buffers hold: memory is that many times all vectors of a step.
    on_error : "warn" ends the recording with a warning and lets the training go on; "raise" raises.
    verify : check every byte of the run when it is closed (by a single rank).
    profile : "default" is the smallest, "fast" the fastest to analyze, for 2 to 4 % more bytes.
    predict : store of an iterate only what differs from what the optimizer makes of the one before:
        half of the bytes, for 12 to 20 bytes of memory a parameter.
    gradients : "exact" keeps every bit of all streams; "int8" and "bf16" round them at random, to 7 and 11
        bits a value, and every metric gets an interval (docs/numerics.md).
    iterates : "exact", or "int8": differences in 8 bits, except keyframes and the final iterate.
    sketch : of every vector record only so many numbers, such as 2**18, from which all metrics follow with intervals,
        and its exact length (docs/sketches.md): two megabytes a step for any model. Or by globs over the names of
        parameters, of which the last one that fits counts: {"*": 2**18, "head.*": 2**14, "embed*": None} shares
        2**18 out to all but the head and embeddings, which are kept as they are. The final iterate is kept as it
        is. Of what every rank holds (DistributedDataParallel) rank 0 does; of what is sharded each rank sketches its
        own elements, and rank 0 records the sums.
    keyframes : with `sketch`, keep the iterates of steps 0, N, 2 N, ... in full too, each in a file of float32, while
        the training waits. Not of parameters that ranks hold in parts.
    shard_bytes, shard_steps, shard_seconds : a shard is published after so much.
    threads : encode on so many; what is written is the same. None takes those processors that the training leaves idle,
        at least 1 and at most 8 (docs/recording.md).
    """

    def __init__(self, path, model, optimizer, *, sample=None, streams=(), scaler=None, metadata=None,
                 resume=False, turns="together", whole_model=False, replicated=False, policy="block", buffer_steps=3,
                 on_error="warn", verify=True, gradients="exact", iterates="exact", sketch=None, keyframes=None,
                 _sink=None, **storage):
        if policy not in ("block", "drop"):
            raise ValueError(f"policy is 'block' or 'drop', not {policy!r}")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error is 'warn' or 'raise', not {on_error!r}")
        if turns not in ("together", "each"):
            raise ValueError(f"turns is 'together' or 'each', not {turns!r}")
        if not isinstance(buffer_steps, numbers.Integral) or buffer_steps < 2:
            raise ValueError("buffer_steps is a number, at least 2: one step is filled while another is written")
        if not (model is None or isinstance(model, dict) or hasattr(model, "named_modules")):
            raise ValueError("model names the parameters: it is a torch.nn.Module, or a dict of name -> parameter, not "
                             f"{type(model).__name__}")
        if not isinstance(metadata or {}, dict):
            raise ValueError(f"metadata is a dict, not {type(metadata).__name__}")
        path, metadata = absolute(path), metadata or {}
        self.step = 0
        self._model, self._optimizers, self._scaler = model, Optimizers(optimizer), scaler
        self._is_step_of_each = turns == "each"
        self._who = {"whole_model": whole_model, "replicated": replicated}
        self._sampled, self._streams = sampler(sample), list(streams)
        storage_options(storage)
        self._policy, self._buffer_steps, self._raises, self._verify = policy, buffer_steps, on_error == "raise", verify
        stored = precisions(gradients, iterates)
        sketched, self._is_sketched = sketching(sketch, stored, keyframes), sketch is not None
        # Where steps are left out, what the optimizer goes on with is recorded too. The moments of a sketch are not the
        # sketch of moments.
        self._predicts = storage.get("predict", True) and iterates == "exact" and sketch is None
        follows = sample is None and policy == "block"
        self._moments = moment_names(self._optimizers) if self._predicts and not follows else []
        self._probes, self._given = {}, {}
        self._log = Log(self._optimizers)
        self._clipping = Clipping(model, self._optimizers, self._log)
        self._epoch = self._recorded = None
        # Between the first step and the end there is a session.
        self._pending = self._session = None
        self._over = self._warned_of_flush = False
        # Who works on it, and what was asked for in the middle of that, or of a step.
        self._work, self._flush_wanted, self._close_wanted = Work(), False, False
        self._unread = []
        self._process = os.getpid()
        self._check_arguments(streams, resume, metadata)
        # Sketches of what every rank holds are rank 0's; the others only count steps.
        self._sums_ranks = sketch is not None and any(map(is_sharded, all_of(model, self._optimizers)))
        self._is_spare = self._over = sketch is not None and process_rank() > 0 and not self._sums_ranks
        if keyframes is not None and self._sums_ranks and has_ranks():
            raise RecordingError("keyframes= is for parameters that one process holds: of sharded ones no rank has the "
                                 "iterate in full before it is gathered, for which the training would have to stop. A "
                                 "checkpoint that you save is a reference too")
        self._destination = Destination(path, self._optimizers, metadata=metadata, storage=storage, precisions=stored,
                                        sketch=sketched, sums_ranks=self._sums_ranks, sink=_sink)
        if resume is False:
            self._destination.check_free()
        elif self._destination.holds_run():
            self._go_on(None if resume is True else int(resume))
        self._which, self._hooks = {}, Hooks()
        # Those that hold an optimizer inside.
        self._nested = {which for which, o in self._optimizers.steppers() if o is not self._optimizers.all[which]}
        for which, stepper in self._optimizers.steppers():
            self._which[id(stepper)] = which
            self._hooks.add(stepper, self._before, self._after)

    def _check_arguments(self, streams, resume, metadata):
        if isinstance(streams, str):
            raise ValueError(f"streams is a list of names: [{streams!r}]")
        if not isinstance(resume, numbers.Integral) or resume < 0:
            raise ValueError(f"resume is True, False or a step, not {resume!r}")
        for _, optimizer in self._optimizers.steppers():
            if type(optimizer).__name__ == "LBFGS":
                raise RecordingError("LBFGS evaluates the loss several times inside a step, so there is no one "
                                     "gradient of a step. Record another optimizer.")
            if hasattr(optimizer, "fused_backward"):
                raise RecordingError(f"{type(optimizer).__name__} moves each parameter inside backward, by "
                                     "fused_backward() and not by steps, and keeps no gradient. Record another "
                                     "optimizer.")
        try:
            json.dumps(metadata, allow_nan=False)
        except (TypeError, ValueError) as e:
            raise RecordingError(f"metadata is not what JSON holds: {e}") from None

    def _go_on(self, step):
        found = self._destination.go_on(step, self._parameters(), ["grad", *self._streams])
        self.step = found.step
        if found.is_new and self._predicts:
            # Else an optimizer that has taken steps would not be followed at first.
            self._moments = moment_names(self._optimizers)

    # What a training calls

    def log(self, **values):
        """Records scalars. A name that is first logged before the first step belongs to the step that follows, any
        other to the step that was just taken, once. `epoch` holds until it is logged again."""
        if self._is_elsewhere():
            return
        # A flush that a signal's handler asks for meanwhile would publish the step without them.
        with self._work.part():
            self._keep(values)
        if self._flush_wanted:
            self.flush()
        self._close_if_wanted()

    def _keep(self, values):
        for name, value in values.items():
            value = held(name, value)
            has_begun = self._session is not None and self._session.has_begun
            if not self._log.take(name, value, self._pending, has_begun) and not self._warned_of_flush:
                self._warned_of_flush = True
                warn(f"'{name}' was logged after flush() had published its step, and is not recorded; log before "
                     "flush()")
            if name == "epoch":
                self._epoch = value

    def stream(self, name, tensors):
        """Records a direction at the iterate that the model holds now: a dict of name -> tensor, or a list in the
        optimizer's order. Belongs to the step that follows."""
        if self._is_elsewhere():
            return
        if name in ("iterate", "grad") or name in DIRECTIONS or name.startswith("probe/"):
            raise ValueError(f"'{name}' is the name of a stream that lpa records itself; choose another")
        if name not in self._streams:
            if self._session is not None:
                raise RecordingError(f"the run has no stream '{name}'; give it before the first step, or name it in "
                                     "streams=")
            self._streams.append(name)
        if self._is_sampled():
            # The caller may use its tensors again before the step.
            copy = lambda t: None if t is None else t.detach().clone()
            named = isinstance(tensors, dict)
            self._given[name] = {k: copy(t) for k, t in tensors.items()} if named else [copy(t) for t in tensors]

    def probe(self, name, loss_fn):
        """Records at every sampled step the gradient of `loss_fn()`, such as the loss on a fixed batch, as the
        stream `probe/NAME`. Random numbers and the model's buffers are left as they were."""
        if self._is_elsewhere():
            return
        if self._session is not None:
            raise RecordingError("probes are registered before the first step")
        if not isinstance(self._model, torch.nn.Module):
            raise RecordingError("a probe needs the model itself, to leave its buffers as they were")
        self._probes[f"probe/{name}"] = loss_fn

    def clip_grad_norm_(self, max_norm, norm_type=2.0, *, parameters=None, **options):
        """What `torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm, norm_type)` does, with the model that is
        recorded, or with `parameters`, and its other options; returns the norm before. Records the coefficient as
        `clip_coef`, also in other recordings whose gradients it clips: where each of them clips the same gradients,
        they are clipped once."""
        return self._clipping.clip(max_norm, norm_type, parameters, options)

    def flush(self):
        """Publishes every step so far; do so when you save a checkpoint, to resume from it. In the middle of a step, as
        from the handler of a signal or from another thread, it is done when that step ends."""
        if self._session is None or self._is_elsewhere():
            return
        with self._work.lock:
            if self._over:
                return
            if self._is_busy():
                self._flush_wanted = True
                return
            with _Guard(self):
                self._publish()
        self._close_if_wanted()

    def _close_if_wanted(self):
        if self._close_wanted and not self._over:
            self.close()

    def mark_end(self):
        """Takes what the model holds now for the final iterate, should no other step follow: call it before something
        else is put into the model for good, such as averaged weights or the best checkpoint."""
        if self._session is not None and not self._is_elsewhere():
            with _Guard(self):
                self._session.mark_end(self.path, self.step)

    def close(self):
        """Records the final iterate and ends the run. Another thread than the training's waits until the step that is
        under way has ended; in the middle of a step, as from the handler of a signal, it is done when that ends."""
        if os.getpid() != self._process:
            return
        with self._work.lock:
            if self._over or not self._is_busy():
                self._end(self._finish)
                return
            self._close_wanted = True
            if self._work.is_under_way or self._pending.turn.thread == threading.get_ident():
                return
        while not self._over:
            time.sleep(_BETWEEN_LOOKS)
            with self._work.lock:
                # A step that raised has no end of its own.
                if not self._over and not self._is_in_a_step():
                    self._end(self._finish)

    def stop(self):
        """Ends without a final iterate. The run can be resumed."""
        self._end(lambda: self._session.queue.stop())

    def _stop_alone(self):
        """The same where the other ranks may not."""
        if self._session is not None and not self._over and self._session.leave():
            self._pending = None
        self.stop()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
            return
        try:
            self._stop_alone()
        except Exception as e:
            # The training's own error says more.
            warn(f"{e}", RecordingStopped)

    @property
    def path(self):
        """The directory of the run."""
        return self._destination.path

    @property
    def buffer_bytes(self):
        """Memory of all buffers; 0 before the first step."""
        return 0 if self._session is None else self._session.nbytes

    @property
    def has_begun(self):
        """Whether a step was taken since the recording began."""
        if self._session is None:
            return False
        return self._session.has_begun or (self._pending is not None and bool(self._pending.taken))

    # What the optimizers call

    @torch.compiler.disable
    def _before(self, stepper, args, kwargs):
        """What `step` is to be called with, where that is something else."""
        if self._is_elsewhere():
            return None
        closure = _closure(args, kwargs)
        with _Guard(self):
            if self._is_inside_a_turn(stepper):
                return self._inside(stepper, closure, args, kwargs)
            self._check_step(stepper, closure, kwargs)
            if self._session is None:
                self._start()
            self._session.check()
            turn = Turn(self._which[id(stepper)], stepper, closure is not None)
            self._begin_turn(turn)
            if closure is not None:
                turn.closure = self._seen(closure, turn, Gradients.SEEN)
                return _with_closure(args, kwargs, turn.closure)
        return None

    @torch.compiler.disable
    def _after(self, stepper, args, kwargs):
        step = self._pending
        if self._is_spare and self._which[id(stepper)] == 0 and steps_under_way(stepper) <= 1:
            self.step += 1
        if self._is_elsewhere() or step is None or step.turn is None or step.turn.stepper is not stepper:
            return
        # A step may call its superclass's, whose hooks run too.
        if steps_under_way(step.turn.stepper) > 1:
            return
        with _Guard(self):
            self._end_turn(step)
            if self._flush_wanted and self._is_complete(step.taken):
                self._publish()
        if self._close_wanted and not self._over and self._is_complete(step.taken):
            self._end(self._finish)

    def _is_elsewhere(self):
        """Whether the recording is over, or this is a copy of it in a forked process."""
        return self._over or os.getpid() != self._process

    def _is_in_a_step(self):
        """Whether the step of an optimizer is under way."""
        turn = None if self._pending is None else self._pending.turn
        return turn is not None and steps_under_way(turn.stepper, turn.thread) > 0

    def _is_busy(self):
        """Whether this thread, which has the lock, has interrupted work on the recording, or a step is under way."""
        return self._work.is_under_way or self._is_in_a_step()

    def _is_inside_a_turn(self, stepper):
        """Whether a step is called by the step of the same optimizer: its superclass's, or that of an optimizer
        inside."""
        turn = None if self._pending is None else self._pending.turn
        if turn is None or turn.which != self._which[id(stepper)]:
            return False
        return steps_under_way(turn.stepper) > (stepper is turn.stepper)

    def _inside(self, stepper, closure, args, kwargs):
        """What a step inside a turn is to be called with, where that is something else. It is about to use the
        gradients that a closure has left, or evaluates one itself."""
        turn = self._pending.turn
        is_another = stepper is not turn.stepper
        if closure is None:
            if is_another and turn.has_closure:
                self._see_gradients(turn, Gradients.SEEN_INSIDE)
            return None
        if closure is turn.closure and not is_another:
            return None
        # Others than PyTorch's own may put parameters back after they have evaluated it.
        moves_from_it = is_another and torch_class(stepper) is not None
        how = Gradients.SEEN_INSIDE if moves_from_it else Gradients.SEEN
        return _with_closure(args, kwargs, self._seen(closure, turn, how))

    def _check_step(self, stepper, closure, kwargs):
        if "grad_scaler" in kwargs:
            raise RecordingError("this optimizer unscales its gradients inside the step, where lpa cannot see them")
        if kwargs.get("param") is not None:
            raise RecordingError("this optimizer steps for one parameter at a time inside backward (gradient release), "
                                 "so that each of its steps is a part of one. Train without gradient release; or make "
                                 "an optimizer for each parameter, and give all of them in a list")
        if self._session is not None and self._session.device and torch.cuda.is_current_stream_capturing():
            raise RecordingError("the optimizer's step is captured in a CUDA graph, whose replay calls no hooks")
        # A closure's gradients are seen after all hooks.
        if closure is None and not is_last(stepper):
            raise RecordingError("another hook of the optimizer was registered after lpa's and could change the "
                                 "gradients after they are recorded; call lpa.record() after it")

    # How

    def _names(self):
        """The streams."""
        return ["grad", *self._streams, *self._probes]

    def _parameters(self):
        parameters = Parameters(self._model, self._optimizers, alone=self._is_sketched, **self._who)
        if self._is_sketched and parameters.ranks > 1 and not self._sums_ranks:
            raise RecordingError("the parameters were not sharded when lpa.record was called, and are now; call it "
                                 "after they are")
        return parameters

    def _vectors(self):
        """How many vectors a step has at most."""
        return 1 + len(self._names()) + len(self._moments)

    def _start(self):
        parameters = self._parameters()
        if self._probes and parameters.ranks > 1:
            raise RecordingError("probes are for a single rank: each would compute another gradient")
        self._log.first_step()
        inner, has_made, exchange = self._destination.writer(parameters, self._names())
        count = self._buffer_steps * (1 + len(self._names())) + len(self._moments)
        try:
            # What a step inside inference_mode makes could not be written to outside of it.
            with torch.inference_mode(False):
                self._session = Session(parameters, inner, count, has_made, self._is_sketched, exchange)
        except BaseException:
            if has_made:
                self._destination.take_back()
            raise
        self.step = self._session.first_step
        atexit.register(self._at_exit)
        if parameters.left_out:
            warn(f"{len(parameters.left_out)} parameters of the model are not in the optimizer and are not recorded "
                 f"({', '.join(parameters.left_out[:3])}, ...)")

    def _begin_turn(self, turn):
        """An optimizer's step begins: in the step that is pending, or in a new one."""
        step = self._pending
        if step is None or not step.taken or turn.which in step.taken or self._is_complete(step.taken):
            self._begin_step(turn)
            return
        step.comparisons += self._session.watch.changed(turn.which)
        self._open(step, turn)

    def _begin_step(self, turn):
        session, flush_wanted = self._session, self._flush_wanted
        # The step before is handed over after this one is copied, if there are buffers: the thread
        # that takes it would slow the copying down.
        before = self._take_pending()
        try:
            session.parameters.check()
            session.forget_end()
            if session.queue.free() < self._vectors():
                session.hand_over(before)
                before = None
            step = Step(self.step, self._is_sampled())
            try:
                self._fill_at_start(step, session, not turn.moves_from_closure)
                self._open(step, turn)
            except BaseException:
                self._discard(step)
                raise
            self._pending = step
        finally:
            session.hand_over(before)
        if flush_wanted:
            # In the midst of a step that only now has turned out to be whole.
            self._flush_wanted = False
            session.checkpoint(self.step)

    def _open(self, step, turn):
        optimizer = self._optimizers.all[turn.which]
        step.scalars.update(hyperparameters.scalars(optimizer, self._session.parameters.numbers[turn.which]))
        found_inf = getattr(optimizer, "found_inf", None)
        turn.found_inf = None if found_inf is None else held("found_inf", found_inf)
        # A fused optimizer divides by the loss scale itself, and leaves the quotient behind.
        turn.unscales = getattr(optimizer, "grad_scale", None) is not None
        step.turn = turn
        if not turn.has_closure:
            self._see(step, turn, Gradients.SEEN)
        elif step.is_sampled and turn.which in self._nested:
            turn.began = self._session.watch.sample(turn.which)

    def _fill_at_start(self, step, session, with_iterate):
        self._clipping.step()
        step.comparisons, self._unread = [*self._unread, *session.watch.changed()], []
        if self._epoch is not None:
            step.scalars["epoch"] = self._epoch
        step.scalars.update(self._log.next)
        if self._scaler is not None:
            step.scalars["loss_scale"] = self._scaler.get_scale()
        self._log.next = {}
        given, self._given = self._given, {}
        if not step.is_sampled:
            return
        late = [n for n in self._streams if n in DIRECTIONS]
        needed = 2 + len(given) + len(self._probes) + len(late) + len(self._moments)
        if self._policy == "drop" and session.queue.free() < needed:
            step.dropped, step.is_sampled = "the buffers were full", False
            return
        parameters = session.parameters
        if with_iterate:
            session.take_iterate(step, self.path)
        step.moments = self._fill_moments(session)
        step.streams["grad"] = session.vector("grad")
        for name, tensors in given.items():
            step.streams[name] = session.fill(name, parameters.aligned(tensors, f"stream '{name}'"))
        for name, loss_fn in self._probes.items():
            step.streams[name] = session.fill(name, probe(self._model, parameters.params, loss_fn))

    def _seen(self, closure, turn, how):
        """A closure whose gradients are seen. It may be evaluated more than once: the last one counts."""
        @functools.wraps(closure)
        def evaluate(*args, **kwargs):
            value = closure(*args, **kwargs)
            if not self._is_elsewhere():
                with _Guard(self):
                    self._see_gradients(turn, how)
            return value
        return evaluate

    def _see_gradients(self, turn, how):
        is_under_way = self._pending is not None and self._pending.turn is turn
        if is_under_way and turn.gradients is not Gradients.SEEN_INSIDE:
            self._see(self._pending, turn, how)

    def _see(self, step, turn, how):
        """What the update of an optimizer will use is there."""
        session = self._session
        turn.gradients = how
        if turn.moves_from_closure:
            step.comparisons += session.watch.changed(turn.which)
        if not step.is_sampled:
            return
        began, evaluated = turn.began, turn.evaluated
        if began is not None and how is Gradients.SEEN:
            turn.evaluated = session.watch.sample(turn.which)
        if step.iterate is None:
            session.take_iterate(step, self.path)
        elif how is Gradients.SEEN_INSIDE and not (evaluated and not Comparison(began, evaluated).tensors()):
            # What was perturbed and put back may be rounded. Where nothing was, what the optimizer inside moves may be
            # something else (schedule-free's z).
            tensors = session.parameters.of[turn.which]
            step.iterate.fill(tensors, [session.parameters.params[i].detach() for i in tensors])
            if step.in_full is not None and len(self._optimizers.all) > 1:
                raise RecordingError("keyframes= keeps the parameters as they are when the update begins; this "
                                     "optimizer puts them back inside its step, when others may have moved theirs. "
                                     "Leave keyframes= out")
            session.keep_in_full(step, self.path)
        if not turn.unscales:
            self._fill_gradients(step, turn)

    def _fill_gradients(self, step, turn):
        parameters = self._session.parameters
        tensors = parameters.of[turn.which]
        step.streams["grad"].fill(tensors, parameters.gradients(tensors))

    def _end_turn(self, step):
        session, turn = self._session, step.turn
        if turn.gradients is Gradients.AWAITED:
            raise RecordingError("the optimizer was given a closure and did not evaluate it, so that lpa has not seen "
                                 "its gradients")
        if turn.unscales and step.is_sampled:
            self._fill_gradients(step, turn)
        taken = {**step.taken, turn.which: turn.found_inf}
        if self._is_complete(taken):
            self._complete(step, taken)
        session.watch.note(turn.which)
        self.step += not step.taken
        step.taken, step.turn = taken, None

    def _is_complete(self, taken):
        return self._is_step_of_each or len(taken) == len(self._optimizers.all)

    def _complete(self, step, taken):
        """All optimizers have stepped that will: takes out the gradients that none used, and adds directions."""
        if not step.is_sampled or step.is_whole:
            return
        step.is_whole = True
        session = self._session
        of, params = session.parameters.of, session.parameters.params
        for which, tensors in enumerate(of):
            if which not in taken:
                step.streams["grad"].take_out(tensors)
        for name in self._streams:
            if name not in DIRECTIONS:
                continue
            vector = step.streams[name] = session.vector(name)
            for which, optimizer in enumerate(self._optimizers.all):
                vector.fill(of[which], DIRECTIONS[name](optimizer, [params[i] for i in of[which]]))
            if len(vector.lacking()) == len(params):
                kinds = ", ".join(type(o).__name__ for o in self._optimizers.all)
                raise RecordingError(f"the stream '{name}' was asked for, but the optimizer is {kinds}, which keeps no "
                                     f"{LACKING[name]}")

    def _is_sampled(self):
        return self._sampled(self.step, None if self._epoch is None else float(self._epoch))

    def _fill_moments(self, session):
        follows, self._recorded = self._recorded == self.step - 1, self.step
        vectors = [] if follows else moments(self._optimizers, session.parameters, self._moments)
        return [session.fill(f"moment {k}", vector) for k, vector in enumerate(vectors)]

    def _discard(self, step):
        # What was changed before a step that was not taken was changed before the next one.
        self._unread = step.comparisons
        self._session.give_back(step)

    def _take_pending(self):
        """The step before, if it was taken."""
        step, self._pending = self._pending, None
        if step is None:
            return None
        # A fused optimizer did nothing, since a gradient was not finite: it took no step.
        skipped = [w for w, found_inf in step.taken.items() if found_inf is not None and float(found_inf) != 0]
        for which in skipped:
            del step.taken[which]
        if not step.taken:
            # None did, or the optimizer raised, and the training went on.
            self.step -= bool(skipped)
            self._discard(step)
            return None
        self._complete(step, step.taken)
        return step

    def _publish(self):
        self._flush_wanted = False
        self._session.hand_over(self._take_pending())
        self._session.checkpoint(self.step)

    def _finish(self):
        self._session.finish(self._unread, self.path, self.step)
        if self._verify:
            self._session.verify(self.path)
        if note := self._destination.note():
            warn(note)

    def _end(self, how):
        """Ends, and takes the hooks off. In a forked process it is not this one's to end."""
        if os.getpid() != self._process:
            return
        if not self._over:
            if self._session is None:
                warn(f"the optimizer took no step; nothing was recorded in {self.path}")
            else:
                with _Guard(self):
                    self._session.hand_over(self._take_pending())
                    how()
            self._is_over()
        self._hooks.remove()

    def _is_over(self):
        self._over = True
        self._given = {}
        self._clipping.end()
        atexit.unregister(self._at_exit)

    def _fail(self, text, cause):
        """Ends the recording for what went wrong: raises, or warns where the training is to go on."""
        session = self._session
        self._is_over()
        has_begun = False
        if session is not None:
            session.leave()
            text = session.queue.failure() or text
            # The step before this one is whole, if it is still there.
            with contextlib.suppress(Exception):
                session.hand_over(self._take_pending())
            with contextlib.suppress(Exception):
                session.queue.stop()
            has_begun = session.has_begun
            if session.has_made and not has_begun:
                self._session = None
                self._destination.take_back()
        self._pending = None
        if self._raises or not has_begun:
            raise RecordingError(text) from cause
        warn(f"the recording of {self.path} ended at step {self.step}: {text.rstrip('.')}. The training goes on.",
             RecordingStopped)

    def _at_exit(self):
        # A script that never closed the recording keeps its steps.
        with contextlib.suppress(Exception):
            self._stop_alone()


def _closure(args, kwargs):
    """What `step` was given to evaluate, if anything; `args` begins with the optimizer."""
    return args[1] if len(args) > 1 else kwargs.get("closure")


def _with_closure(args, kwargs, closure):
    """The arguments of `step`, with another closure."""
    if len(args) > 1:
        return (args[0], closure, *args[2:]), kwargs
    return args, {**kwargs, "closure": closure}


class _Guard:
    """Turns a failure of the recording into its end, with one warning, unless it shall be raised. What is wrong
    before the first step was recorded is raised: nothing is lost yet."""

    def __init__(self, recorder):
        self.recorder, self._interrupts, self._entered = recorder, Interrupts(), None

    def __enter__(self):
        with contextlib.ExitStack() as entered:
            # A second Ctrl-C ends the wait for another thread: then too the first one's handler goes.
            entered.callback(self._interrupts.let)
            self._interrupts.postpone()
            entered.enter_context(self.recorder._work.part())
            self._entered = entered.pop_all()
        return self

    def __exit__(self, kind, error, _):
        with self._entered:
            # Whatever fails here must not end the training; what ends the process (an interrupt) is not a failure.
            if not isinstance(error, Exception):
                return False
            text = str(error) if isinstance(error, RecordingError) else f"{kind.__name__}: {error}"
            self.recorder._fail(text, None if isinstance(error, Broken) else error)
            return True
