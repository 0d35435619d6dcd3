"""Records trainings by Hugging Face's Trainer: which of its events starts, feeds and ends a recording."""

from accelerate.optimizer import AcceleratedOptimizer
from transformers import TrainerCallback

from .errors import RecordingError
from .recorder import record

__all__ = ["RecorderCallback"]


class RecorderCallback(TrainerCallback):
    """Records a Trainer's training: `Trainer(..., callbacks=[RecorderCallback("runs/x")])`.

    Options are those of :func:`lpa.record`. What is recorded is what the optimizer receives; the Trainer accumulates
    and clips (`max_grad_norm`, by default 1.0) before that, so the gradient is the clipped one. `epoch` is the
    fraction of epochs that were done before the step. `loss` is what the Trainer logs: every `logging_steps` (set 1
    to have it at every step) the mean since it was last logged, at the step that was then taken.

    When the Trainer saves a checkpoint, all steps so far are published. A training that ends by an exception leaves an
    incomplete run, which can be read, and resumed from such a checkpoint: `RecorderCallback("runs/x", resume=True)`
    and `trainer.train(resume_from_checkpoint=True)`; in the same process, after `callback.recorder.stop()`.

    Several processes by DistributedDataParallel are refused, since the Trainer shows its callbacks the model without
    its wrapper.
    """

    def __init__(self, path, **options):
        self.recorder = None
        self._path, self._options = path, options

    def on_train_begin(self, args, state, control, *, model, optimizer, **_):
        if args.load_best_model_at_end:
            raise RecordingError("with load_best_model_at_end the Trainer replaces the final iterate before it can be "
                                 "recorded; set it to False, and load state.best_model_checkpoint after the training")
        if self.recorder is not None:
            self.recorder.stop()
        # The Trainer steps accelerate's wrapper, which has no hooks.
        inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        self.recorder = record(self._path, model, inner, **self._options)

    def on_step_begin(self, args, state, control, **_):
        self.recorder.log(epoch=state.epoch)

    def on_log(self, args, state, control, *, logs, **_):
        if "loss" in logs:
            self.recorder.log(loss=logs["loss"])

    def on_save(self, args, state, control, **_):
        self.recorder.flush()

    def on_train_end(self, args, state, control, **_):
        self.recorder.close()
