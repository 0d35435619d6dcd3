"""A training by Keras' `fit`, recorded: SGD with momentum and a learning rate that drops learns scikit-learn's digits.

Run it as `python examples/keras_digits.py RUN` (needs keras, jax, polars and scikit-learn); it takes a few seconds.
"""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
import polars
from sklearn.datasets import load_digits

import lpa

BATCH, EPOCHS, MOMENTUM, WEIGHT_DECAY, SEED = 64, 10, 0.9, 1e-4, 0
LR = keras.optimizers.schedules.PiecewiseConstantDecay([200], [0.05, 0.005])
# Keras keeps the learning rate inside the velocity, and its weight decay acts on the parameters directly.
OPTIMIZER = {"name": "sgd", "param_groups": [{"lr": 0.05, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY,
                                              "lr_in_velocity": True, "decoupled_weight_decay": True}]}


class Recorded(keras.Sequential):
    """A model whose `train_step` hands the parameters before each update, and its gradient, to a writer."""

    writer = None

    def train_step(self, state, data):
        trainable, other, optimizer, metrics = state
        images, labels = data

        def loss_of(trainable):
            predicted, now = self.stateless_call(trainable, other, images, training=True)
            return self.compute_loss(images, labels, predicted), now

        (loss, other), gradient = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        # The compiled step calls back, in the order of the steps. (`clipnorm` would be applied after this.)
        jax.experimental.io_callback(self.record, None, trainable, gradient, loss, ordered=True)
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradient, trainable)
        return {"loss": loss}, (trainable, other, optimizer, metrics)

    def record(self, x, gradient, loss):
        step = self.writer.next_step
        self.writer.step(self.named(x), {"grad": self.named(gradient)},
                         {"loss": loss, "lr/0": LR(step), "epoch": step * BATCH / SAMPLES, "batch_size": BATCH})

    def named(self, values):
        return {v.path: np.asarray(value) for v, value in zip(self.trainable_variables, values, strict=True)}


IMAGES, LABELS = load_digits(return_X_y=True)
SAMPLES = len(LABELS) // BATCH * BATCH


def main(path):
    keras.utils.set_random_seed(SEED)
    layers = keras.layers
    model = Recorded([layers.Input((64,)), layers.Dense(20, "relu", name="hidden"), layers.Dense(10, name="logits")])
    model.compile(keras.optimizers.SGD(LR, MOMENTUM, weight_decay=WEIGHT_DECAY),
                  keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    weights = lambda: model.named([v.value for v in model.trainable_variables])
    metadata = {"keras": keras.__version__, "seed": SEED}
    with lpa.Writer(path, weights(), optimizer=OPTIMIZER, metadata=metadata) as writer:
        model.writer = writer
        images = (IMAGES[:SAMPLES] / 16).astype(np.float32)
        model.fit(images, LABELS[:SAMPLES], batch_size=BATCH, epochs=EPOCHS, verbose=0)
        writer.finish(weights())
    print(polars.read_parquet_metadata(lpa.analyze(path, frame="path"))["lpa.summary"])


if __name__ == "__main__":
    main(sys.argv[1])
