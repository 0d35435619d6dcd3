"""Where a recording goes on: in the run that was recorded before, or, where other ranks go on or each with other
elements, in one beside it that begins where that one is gone on from: `path-2`, `path-3`, ..."""

import itertools
import os
from dataclasses import dataclass

from .attempt import Iterates, check_manifest, has_slices_of
from .errors import RecordingError
from .reader import Run


@dataclass
class Continuation:
    """A run, and the step from which on it is recorded.

    `is_new`: the run is to be made. `before`: the runs, oldest first, of which it is what follows.
    """

    path: str
    step: int
    is_new: bool
    before: list[str]

    def manifest(self):
        """What a new run's manifest has of the one that it goes on from."""
        manifest = Run(self.before[-1]).manifest
        return {"streams": manifest["streams"], "continues": {"run_id": manifest["run_id"], "step": self.step}}

    def text(self):
        """What the user should know of it; None where it is the run that was named."""
        if not self.before:
            return None
        runs = " ".join([*self.before, self.path])
        return (f"{self.before[-1]} was recorded by other ranks, or each had other elements; recorded in {self.path} "
                f"from step {self.step} on. Afterwards `lpa join {runs} --out NEW` makes one run of them")


def find(path, step, parameters, streams, how):
    """Where the recording of `path` goes on: at `step`, or where that is None at the newest step whose iterate the
    model holds, bit for bit.

    `how` vectors are stored: as :func:`check_manifest` takes it.

    Raises RecordingError where that is not known, or cannot be.
    """
    runs = _runs_of(path)
    precisions, _ = how
    for run in runs:
        check_manifest(run.path, parameters, streams, how)
    at, step = _newest(runs, parameters) if step is None else _with_step(runs, step, parameters)
    # Nothing of a run is used that would be gone on from where it begins.
    while not has_slices_of(runs[at].manifest, parameters) and step == runs[at].first and runs[at].before is not None:
        at = runs[at].before
    before = _line(runs, at)
    if has_slices_of(runs[at].manifest, parameters):
        return Continuation(runs[at].path, step, False, before[:-1])
    for run in runs:
        # It went on from here already.
        if run.before == at and run.first == step and has_slices_of(run.manifest, parameters):
            return Continuation(run.path, step, False, before)
    if precisions != {"gradients": "exact", "iterates": "exact"}:
        world = runs[at].manifest["world"]
        raise RecordingError(f"{runs[at].path} was recorded by {world} ranks with other slices, and with loss, so that "
                             "what goes on from it could not be joined with it. Resume it with as many, or record into "
                             "another directory")
    return Continuation(_free(path), step, True, before)


class _Member:
    """A run of the training. `before`: the number of the one that it goes on from; None of the first. `is_made`: by
    `lpa sketch`."""

    def __init__(self, path, manifest, before):
        self.path, self.manifest, self.before = path, manifest, before
        self.first = manifest.get("continues", {}).get("step", 0)
        self.is_made = manifest.get("sketch") is not None and "sketch_of" in manifest.get("metadata", {})

    @property
    def end(self):
        """The step after those that it holds."""
        return Run(self.path).steps.stop


def _runs_of(path):
    """The run, and those beside it that go on from it or from each other, in the order of their numbers."""
    runs = [_Member(path, Run(path).manifest, None)]
    for beside in itertools.takewhile(os.path.lexists, _beside(path)):
        # Other trainings may have such names too.
        if os.path.exists(os.path.join(beside, "manifest.json")):
            manifest = Run(beside).manifest
            ids = [run.manifest["run_id"] for run in runs]
            if manifest.get("continues", {}).get("run_id") in ids:
                runs.append(_Member(beside, manifest, ids.index(manifest["continues"]["run_id"])))
    return runs


def _beside(path):
    return (f"{path.rstrip(os.sep)}-{k}" for k in itertools.count(2))


def _free(path):
    return next(p for p in _beside(path) if not os.path.lexists(p))


def _line(runs, at):
    """The paths of a run and of those before it, oldest first."""
    line = []
    while at is not None:
        line.insert(0, runs[at].path)
        at = runs[at].before
    return line


def _newest(runs, parameters):
    """Which run has the iterate that the model holds, and its step."""
    known = []
    for at in reversed(range(len(runs))):
        iterates = Iterates(runs[at].path, parameters)
        if iterates.is_empty:
            continue
        if (step := iterates.find()) is not None:
            return at, step
        known.append(f"{runs[at].path} has recorded (steps {iterates.steps.start} to {iterates.steps.stop - 1})")
    if not known and has_slices_of(runs[0].manifest, parameters):
        return 0, runs[0].first
    if not known:
        raise RecordingError(f"{runs[0].path} holds no step yet, and other ranks began it; remove it, or record into "
                             "another directory")
    held = f"the model holds no iterate that {', or '.join(reversed(known))}"
    if runs[0].is_made:
        raise RecordingError(f"{held}. lpa sketch made it, which knows no iterate of a checkpoint that is not recorded "
                             f"as a step. Where the model holds the next one, give its step: resume={runs[0].end}")
    raise RecordingError(f"{held}. Load the checkpoint before lpa.record(), and call flush() when you save one; or "
                         "give the step: resume=N")


def _with_step(runs, step, parameters):
    """Which run has a step that is the user's word, as far as is known."""
    failure = RecordingError(f"{runs[0].path} begins with step {runs[0].first}; it is not resumed at step {step}")
    found = None
    for at, run in enumerate(runs):
        end = max(Run(run.path).steps.stop, run.first)
        if run.first > step:
            continue
        try:
            if step > end:
                raise RecordingError(f"cannot resume at step {step}: {run.path} has no steps from {end} on. Resume at "
                                     f"step {end} or before")
            Iterates(run.path, parameters).check(step)
            found = at
        except RecordingError as e:
            failure = e
    if found is None:
        raise failure
    return found, step
