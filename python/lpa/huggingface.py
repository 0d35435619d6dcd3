"""Records a training of Hugging Face's Trainer."""

from transformers import TrainerCallback
from transformers.training_args import ParallelMode

from .callbacks import Trainings

__all__ = ["RecorderCallback"]


class RecorderCallback(TrainerCallback):
    """Records a Trainer's training: `Trainer(..., callbacks=[RecorderCallback("runs/x")])`.

    Options are those of :func:`lpa.record`. What is recorded is what the optimizer receives; the Trainer accumulates
    and clips (`max_grad_norm`, by default 1.0) before that, so the gradient is the clipped one. `epoch` is the
    fraction of epochs that were done before the step. Of layer-wise optimizers (GaLore's, APOLLO's), which step inside
    backward, it is what each receives. `loss` is what the Trainer logs: every `logging_steps` (set 1
    to have it at every step) the mean since it was last logged, at the step that was then taken.

    The final iterate is what the last step left, also where `load_best_model_at_end` puts another into the model. By
    several processes (`torchrun`, `accelerate launch`) each rank writes its part. A second `train()`, and one that
    `auto_find_batch_size` begins anew, is a run of its own: `runs/x-2`, `runs/x-3`.

    When the Trainer saves a checkpoint, all steps so far are published. A training that ends by an exception leaves an
    incomplete run, which can be read, and resumed from such a checkpoint: `RecorderCallback("runs/x", resume=True)`
    and `trainer.train(resume_from_checkpoint=True)`; in the same process, after `callback.recorder.stop()`.
    """

    def __init__(self, path, **options):
        self._trainings = Trainings(path, options)

    @property
    def recorder(self):
        """The :class:`lpa.Recorder` of the training; None before the first."""
        return self._trainings.recorder

    def on_train_begin(self, args, state, control, *, model, optimizer, **_):
        # By layers each parameter has an optimizer, which steps inside backward; the Trainer's own does nothing.
        of_layers = getattr(getattr(optimizer, "optimizer", optimizer), "optimizer_dict", None)
        # Callbacks are shown the model without its DistributedDataParallel.
        self._trainings.begin(model, of_layers or optimizer,
                              replicated=args.parallel_mode == ParallelMode.DISTRIBUTED)

    def on_step_begin(self, args, state, control, **_):
        self.recorder.log(epoch=state.epoch)

    def on_log(self, args, state, control, *, logs, **_):
        if "loss" in logs:
            self.recorder.log(loss=logs["loss"])

    def on_save(self, args, state, control, **_):
        self.recorder.flush()

    def on_epoch_end(self, args, state, control, **_):
        # After the last one the Trainer may load the best model.
        self.recorder.mark_end()

    def on_train_end(self, args, state, control, **_):
        self.recorder.close()
