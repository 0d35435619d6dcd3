"""Where a recording goes: the run that is found, made, resumed or joined. It knows the parameters and the names of the
streams that it is given, and nothing of when a step is recorded."""

import json
import os
import time

import torch

from . import _lpa, continuation, hyperparameters
from .attempt import Iterates, check_manifest, has_slices_of
from .directions import STAGES
from .errors import RecordingError, say
from .exchange import Exchange
from .parameters import has_ranks, process_rank, process_ranks
from .rank_sketches import Follower, Together
from .ranks import agreed, in_turn
from .reader import Run
from .threads import idle_processors
from .writer import storage_options

# How long another rank waits for rank 0 to have made or resumed the run.
_RANK_0_SECONDS = 300


class Destination:
    """Where a recording goes: a run directory, and what a run that is made there says of itself.

    `sums_ranks`: ranks sum the sketches of what they hold together. `sink`: what makes a new writer instead of a run,
    or None.
    """

    def __init__(self, path, optimizers, *, metadata, storage, precisions, sketch, sums_ranks, sink=None):
        self.path = path
        # Where a recording goes on that was there before.
        self.continuation = None
        self._optimizers, self._metadata, self._storage = optimizers, metadata, storage
        self._precisions, self._sketch, self._sums_ranks = precisions, sketch, sums_ranks
        self._sink = sink or _RunSink()
        # Through which ranks have summed sketches of the iterate already.
        self._exchange = None

    def holds_run(self):
        """Whether a run is there."""
        return os.path.exists(os.path.join(self.path, "manifest.json"))

    def check_free(self):
        """Raises where a run is there; on rank 0, which would make one."""
        if process_rank() == 0 and self.holds_run():
            raise RecordingError(f"{self.path} holds a run already; choose another directory, or resume=True")

    def go_on(self, step, parameters, streams):
        """Finds the run and the step in which a recording of these parameters goes on; `step` is the user's word, or
        None. From then on it is where the recording goes."""
        how = self._precisions, self._sketch

        def find():
            return continuation.find(self.path, step, parameters, streams, how)

        def checked(found):
            Iterates(found.before[-1] if found.is_new else found.path, parameters).check(found.step)
            return found
        if self._sketch is None or not has_ranks():
            found = checked(agreed(find, parameters.ranks, parameters.rank))
        else:
            # What rank 0 records alone it alone has to find, after what ranks hold together is summed.
            ranks = process_ranks(), process_rank()
            agreed(lambda: check_manifest(self.path, parameters, streams, how), *ranks)
            if self._sums_ranks and parameters.ranks > 1:
                self._exchange = Exchange(parameters.ranks, parameters.rank)
                parameters = Together(parameters, Run(self.path).manifest, self._exchange)
            found = agreed(lambda: checked(find()), *ranks)
        self.continuation, self.path = found, found.path
        if found.text() is not None and process_rank() == 0:
            say(found.text())
        return found

    def writer(self, parameters, streams):
        """A writer, whether it has made the run, and the exchange through which ranks sum their sketches, or None."""
        exchange = self._exchange
        if exchange is None and self._sums_ranks and parameters.ranks > 1:
            exchange = Exchange(parameters.ranks, parameters.rank)
        if exchange is None:
            return *self._writer(parameters, streams), None
        return *self._writer_of_sums(parameters, streams, exchange), exchange

    def take_back(self):
        """Removes the run that was made, which holds no step yet."""
        _lpa.take_back(self.path)

    def note(self):
        """What the user should know at the end, or None."""
        return self._sink.note()

    def _writer(self, parameters, streams):
        """A writer, and whether it has made the run."""
        found, storage = self.continuation, self._options(parameters)
        if found is not None and not found.is_new:
            self._check_run(parameters, streams)
            return in_turn(lambda: self._attach(parameters, found.step, storage), parameters), False
        if parameters.rank > 0:
            inner = self._attach(parameters, None, storage)
            self._check_run(parameters, streams)
            return inner, False
        parts = self._parts(parameters, streams)
        if found is not None:
            check_manifest(found.before[-1], parameters, streams, (self._precisions, self._sketch))
            parts.update(found.manifest())
        return self._create(parts, storage), True

    def _writer_of_sums(self, parameters, streams, exchange):
        """The same of sketches that are summed over ranks, which rank 0 writes."""
        made, found = [], self.continuation

        def make():
            storage = self._options(parameters)
            if found is None:
                made.append(self._create({**self._parts(parameters, streams), "world": 1, "slices": []}, storage))
            else:
                check_manifest(self.path, parameters, streams, (self._precisions, self._sketch))
                made.append(self._attach(parameters, found.step, storage))
            return made[0].manifest(), made[0].next_step(), made[0].slice_bytes()

        told = exchange.told(make)
        return (made[0], found is None) if made else (Follower(*told), False)

    def _options(self, parameters):
        return storage_options({"threads": idle_processors(parameters), **self._storage})

    def _parts(self, parameters, streams):
        """What a new run's manifest has."""
        return {
            "tensors": parameters.table(),
            "streams": [{"name": n, "stage": STAGES.get(n, "")} for n in streams],
            "optimizer": {"name": hyperparameters.name(self._optimizers),
                          "param_groups": hyperparameters.initial(self._optimizers, parameters)},
            "storage": self._precisions,
            "sketch": self._sketch,
            "world": parameters.ranks,
            "slices": parameters.slices,
            "metadata": {"torch": torch.__version__, **self._metadata},
        }

    def _create(self, parts, storage):
        try:
            return self._sink.create(self.path, parts, storage)
        except (OSError, ValueError) as e:
            raise RecordingError(str(e)) from None

    def _check_run(self, parameters, streams):
        check_manifest(self.path, parameters, streams, (self._precisions, self._sketch))
        if not has_slices_of(Run(self.path).manifest, parameters):
            raise RecordingError(f"{self.path} is recorded by other ranks, or each has other elements; record into "
                                 "another directory")

    def _attach(self, parameters, step, storage):
        # Rank 0 makes or resumes the run; the others have no need of a barrier to find it.
        until = time.monotonic() + (_RANK_0_SECONDS if parameters.rank > 0 else 0)
        while True:
            try:
                return _lpa.Writer.attach(self.path, parameters.rank, step, storage)
            except ValueError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.05)


class _RunSink:
    """Where a recording goes by itself: into a run."""

    def create(self, path, parts, storage):
        """A new writer of what `parts` describe."""
        return _lpa.Writer.create(path, json.dumps(parts), storage)

    def note(self):
        """What the user should know at the end, or None."""
        return None
