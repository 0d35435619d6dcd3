"""Records a training of PyTorch Lightning."""

from lightning.pytorch.callbacks import BaseFinetuning, Callback

from .callbacks import Trainings

__all__ = ["RecorderCallback"]


class RecorderCallback(Callback):
    """Records a training of Lightning's Trainer: `Trainer(..., callbacks=[RecorderCallback("runs/x")])`.

    Options are those of :func:`lpa.record`. What is recorded is what the update used: after accumulation and clipping,
    by automatic and by manual optimization. All optimizers of the module are one run (`turns="each"` where they
    alternate). `loss` is the mean of what `training_step` returned since the step before; `epoch` is the Trainer's.

    The final iterate is what the last step left, also where another callback puts averaged weights into the model.
    With callbacks that unfreeze (`BaseFinetuning`) all parameters of the module are recorded from the start. By several
    processes (strategies `ddp` and `ModelParallelStrategy`) each rank writes its part. A second `fit()` is a run of its
    own: `runs/x-2`.

    When Lightning saves a checkpoint, all steps so far are published. A training that ends by an exception leaves an
    incomplete run, which can be read, and resumed from such a checkpoint: `RecorderCallback("runs/x", resume=True)`
    and `trainer.fit(..., ckpt_path=...)`.
    """

    def __init__(self, path, **options):
        self._trainings = Trainings(path, options)
        self._losses, self._step = [], None

    @property
    def recorder(self):
        """The :class:`lpa.Recorder` of the training; None before the first."""
        return self._trainings.recorder

    def on_train_start(self, trainer, module):
        unfreezes = any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks)
        self._trainings.begin(trainer.strategy.model, trainer.optimizers, whole_model=unfreezes)
        self._losses, self._step = [], self.recorder.step

    def on_train_epoch_start(self, trainer, module):
        self.recorder.log(epoch=trainer.current_epoch)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            # By automatic optimization it is a part of the mean already.
            parts = trainer.accumulate_grad_batches if module.automatic_optimization else 1
            self._losses.append(loss.detach() * parts)
        if self.recorder.step == self._step:
            return
        self._step = self.recorder.step
        if self._losses:
            self.recorder.log(loss=sum(self._losses) / len(self._losses))
        self._losses = []

    def on_train_epoch_end(self, trainer, module):
        self.recorder.mark_end()

    def on_save_checkpoint(self, trainer, module, checkpoint):
        if self.recorder is not None:
            self.recorder.flush()

    def on_train_end(self, trainer, module):
        self.recorder.close()

    def on_exception(self, trainer, module, exception):
        if self.recorder is not None:
            self.recorder.stop()
