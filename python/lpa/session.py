"""What exists of a recording from its first step to its end: the writer's thread and the buffers that it takes."""

import enum
import json
import threading

from . import _lpa
from .buffers import Buffers
from .errors import RecordingError
from .exchange import CHECKPOINT, FINISH, STEP
from .optimizers import torch_class
from .rank_sketches import RankSketchBuffers
from .sketching import SketchBuffers
from .watch import Watch


class Broken(Exception):
    """The writer failed."""


class Step:
    """What is held of a step until the next one begins. Of several optimizers each has its turn in it.

    `is_sampled`: its vectors are recorded; `dropped`: why they are not though they should be.
    """

    def __init__(self, number, is_sampled):
        self.number, self.scalars, self.is_sampled = number, {}, is_sampled
        self.iterate, self.streams, self.moments = None, {}, []
        # The iterate as it is, in a file without a name, where it is kept so beside its sketch.
        self.in_full = None
        self.comparisons = []
        self.dropped = None
        # The turn that has begun and not ended.
        self.turn = None
        # By optimizer that has stepped: whether it found something that was not finite, or None.
        self.taken = {}
        # Nothing will be added to its vectors any more.
        self.is_whole = False
        # Names that were logged after the step.
        self.logged = set()

    def filled(self):
        """The vectors that the step holds."""
        return [v for v in (self.iterate, *self.streams.values(), *self.moments) if v is not None]


class Gradients(enum.Enum):
    """Whether the gradients of a turn are there."""

    AWAITED = enum.auto()
    SEEN = enum.auto()
    # As an optimizer inside received them: what a closure leaves after that is not used.
    SEEN_INSIDE = enum.auto()


class Turn:
    """One optimizer's part in a step: `step` of `stepper`, itself or what is inside it, was called and has not
    returned. With a closure, the gradients come when that was evaluated."""

    def __init__(self, which, stepper, has_closure):
        self.which, self.stepper, self.has_closure = which, stepper, has_closure
        self.thread = threading.get_ident()
        self.gradients = Gradients.AWAITED
        # The one whose gradients are seen, which the step is called with.
        self.closure = None
        # Few elements of the parameters as the turn began, and as the closure was evaluated last.
        self.began = self.evaluated = None
        # It divides them by the loss scale itself, and leaves the quotients behind.
        self.unscales = False
        self.found_inf = None

    @property
    def moves_from_closure(self):
        """Whether the parameters that a closure leaves are those from which it moves: PyTorch's own optimizers evaluate
        it first, others may do so elsewhere (SAM)."""
        return self.has_closure and torch_class(self.stepper) is not None


class Session:
    """A writer that goes on in the background, with `count` buffers. `has_made` the run: it was not there before.
    `is_sketched`: it records sketches of vectors; of an `exchange`, of those that the ranks hold together."""

    def __init__(self, parameters, inner, count, has_made, is_sketched=False, exchange=None):
        self.parameters, self.has_made = parameters, has_made
        # A step was handed over.
        self.has_begun = False
        self.first_step = inner.next_step()
        self.watch = Watch(parameters)
        # The final iterate, where it was taken before the end.
        self._end = None
        # What iterates are recorded by in full beside their sketches: the final one, and those of every so many steps.
        self._manifest = inner.manifest() if is_sketched else None
        self._keyframes = json.loads(self._manifest)["sketch"].get("keyframes") if is_sketched else None
        self._exchange = exchange
        if exchange is not None:
            self._buffers = RankSketchBuffers(parameters, inner, count, exchange)
        else:
            self._buffers = (SketchBuffers if is_sketched else Buffers)(parameters, inner, count)

    @property
    def queue(self):
        """The thread's jobs."""
        return self._buffers.queue

    @property
    def nbytes(self):
        """Memory of all buffers."""
        return self._buffers.nbytes * self._buffers.count

    @property
    def device(self):
        """The CUDA device of the parameters, or None."""
        return self._buffers.device

    def check(self):
        """Raises where the writer failed."""
        failure = self.queue.failure()
        if failure is not None:
            raise Broken(failure)

    def vector(self, key):
        """A buffer for a vector; waits for one."""
        number = self.queue.take(True)
        if number is None:
            raise Broken(self.queue.failure() or "there is no free buffer")
        return self._buffers.vector(number, key)

    def fill(self, key, values):
        """A vector of which all tensors are at hand."""
        vector = self.vector(key)
        try:
            vector.fill(range(len(self.parameters.params)), values)
        except BaseException:
            self.queue.give_back(vector.number)
            raise
        return vector

    def iterate(self):
        """The parameters as they are now."""
        return self.fill("iterate", list(self.parameters.params))

    def take_iterate(self, step, path):
        """Takes the parameters as they are now for the iterate of a step."""
        step.iterate = self.iterate()
        self.keep_in_full(step, path)

    def keep_in_full(self, step, path):
        """Writes the parameters as they are now to a file, where the iterate of the step is to be kept in full."""
        if self._keyframes and step.number % self._keyframes == 0:
            # What was written before is not the iterate.
            step.in_full = None
            step.in_full = self._buffers.full(path, self._manifest, step.number, is_final=False)

    def give_back(self, step):
        """Takes the buffers of a step that was not taken."""
        for vector in step.filled():
            self.queue.give_back(vector.number)

    def hand_over(self, step):
        """Gives a step to the thread; nothing where there is none."""
        if step is None:
            return
        self.has_begun = True
        scalars = [(name, float(value)) for name, value in step.scalars.items()]
        scalars += self.watch.scalars(step.comparisons, step.number)
        vectors = [] if step.iterate is None else [("iterate", step.iterate)]
        is_whole = self._buffers.gather(STEP, step.number, [*vectors, *step.streams.items()])
        if step.dropped or not is_whole:
            self.give_back(step)
            self.queue.drop_step(scalars, step.dropped or "rank 0 gave them up")
            return
        if step.in_full is not None:
            # Before the step can be published, so that no step that is there lacks it.
            step.in_full.publish()
        iterate = None if step.iterate is None else step.iterate.ready()
        streams = [(name, vector.ready()) for name, vector in step.streams.items()]
        for name, vector in (*vectors, *step.streams.items()):
            scalars += vector.scalars(name)
        self.queue.step(iterate, streams, scalars, [vector.ready() for vector in step.moments])

    def checkpoint(self, step):
        """Publishes all steps, and notes the parameters as they are now: x_`step`."""
        iterate = self.iterate()
        self._buffers.gather(CHECKPOINT, step, [("iterate", iterate)])
        self.queue.checkpoint(iterate.ready())
        self.check()

    def leave(self):
        """This rank ends its recording, and may be the only one. Returns whether vectors then lack what others hold."""
        if self._exchange is not None:
            self._exchange.leave()
        return self._exchange is not None

    def mark_end(self, path, step):
        """Takes the parameters as they are now for the final iterate x_`step`, unless another step follows."""
        self.forget_end()
        self._end = self._end_now(path, step)

    def _end_now(self, path, step):
        return self.iterate(), self.watch.changed(), self._buffers.full(path, self._manifest, step)

    def forget_end(self):
        """Another step follows."""
        if self._end is not None:
            self.queue.give_back(self._end[0].number)
            self._end = None

    def finish(self, comparisons, path, step):
        """Records the final iterate, x_`step`."""
        iterate, changed, full = self._end or self._end_now(path, step)
        self._buffers.gather(FINISH, step, [("iterate", iterate)])
        ready = iterate.ready()
        scalars = [*self.watch.scalars([*comparisons, *changed]), *iterate.scalars("iterate")]
        self.queue.finish(ready, scalars)
        if full is not None:
            full.publish()

    def verify(self, path):
        """Checks every byte of the run, where one rank alone has written it."""
        is_alone = self.parameters.ranks == 1 or (self._exchange is not None and self.parameters.rank == 0)
        problems = _lpa.verify(path) if is_alone else []
        if problems:
            raise RecordingError(f"{path} is not what was written: {problems[0]}")
