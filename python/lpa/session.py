"""What exists of a recording from its first step to its end: the writer's thread and the buffers that it takes."""

from . import _lpa
from .buffers import Buffers
from .errors import RecordingError
from .watch import Watch


class Broken(Exception):
    """The writer failed."""


class Step:
    """What is held of a step until the next one begins."""

    def __init__(self, number, scalars):
        self.number, self.scalars, self.iterate, self.streams, self.moments = number, scalars, None, {}, []
        self.comparisons = []
        self.dropped = self.found_inf = None
        self.unscaled_later = self.taken = False
        # Names that were logged after the step.
        self.logged = set()

    def filled(self):
        """The buffers that the step holds."""
        return [v for v in (self.iterate, *self.streams.values(), *self.moments) if v is not None]


class Session:
    """A writer that goes on in the background, with `count` buffers. `has_made` the run: it was not there before."""

    def __init__(self, parameters, inner, count, has_made):
        self.parameters, self.has_made = parameters, has_made
        # A step was handed over.
        self.has_begun = False
        self.first_step = inner.next_step()
        self.watch, self._count = Watch(parameters), count
        self._buffers = Buffers(parameters, inner, count)

    @property
    def queue(self):
        """The thread's jobs."""
        return self._buffers.queue

    @property
    def nbytes(self):
        """Memory of all buffers."""
        return self._buffers.nbytes * self._count

    @property
    def device(self):
        """The CUDA device of the parameters, or None."""
        return self._buffers.device

    def check(self):
        """Raises where the writer failed."""
        failure = self.queue.failure()
        if failure is not None:
            raise Broken(failure)

    def fill(self, key, tensors):
        """Copies a vector to a buffer; waits for one."""
        number = self.queue.take(True)
        if number is None:
            raise Broken(self.queue.failure() or "there is no free buffer")
        try:
            return self._buffers.fill(number, tensors, key)
        except BaseException:
            self.queue.give_back(number)
            raise

    def give_back(self, step):
        """Takes the buffers of a step that was not taken."""
        for number, _ in step.filled():
            self.queue.give_back(number)

    def hand_over(self, step):
        """Gives a step to the thread; nothing where there is none."""
        if step is None:
            return
        self.has_begun = True
        for number, _ in step.filled():
            self._buffers.ready(number)
        scalars = [(name, float(value)) for name, value in step.scalars.items()]
        scalars += self.watch.scalars(step.comparisons, step.number)
        if step.dropped:
            self.queue.drop_step(scalars, step.dropped)
        else:
            self.queue.step(step.iterate, list(step.streams.items()), scalars, step.moments)

    def checkpoint(self):
        """Publishes all steps, and notes the parameters as they are now."""
        self.queue.checkpoint(self._iterate())
        self.check()

    def finish(self, comparisons):
        """Records the final iterate: the parameters as they are now."""
        scalars = self.watch.scalars([*comparisons, self.watch.changed()])
        self.queue.finish(self._iterate(), scalars)

    def verify(self, path):
        """Checks every byte of the run, where one rank alone has written it."""
        problems = _lpa.verify(path) if self.parameters.ranks == 1 else []
        if problems:
            raise RecordingError(f"{path} is not what was written: {problems[0]}")

    def _iterate(self):
        filled = self.fill("iterate", [p.detach() for p in self.parameters.params])
        self._buffers.ready(filled[0])
        return filled
