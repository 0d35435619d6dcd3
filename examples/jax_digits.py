"""A training in JAX, recorded: optax's SGD with momentum learns scikit-learn's handwritten digits.

Run it as `python examples/jax_digits.py RUN` (needs jax, optax, polars and scikit-learn); it takes a few seconds.
"""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars
from sklearn.datasets import load_digits

import lpa

BATCH, EPOCHS, LR, MOMENTUM, SEED = 64, 10, 0.05, 0.9, 0


def network(key, sizes=(64, 20, 10)):
    """Initial parameters: a dict of layers."""
    layers = {}
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
        key, one = jax.random.split(key)
        layers[f"layer{i}"] = {"w": jax.random.normal(one, (n, m)) / n**0.5, "b": jnp.zeros(m)}
    return layers


def loss_of(params, images, labels):
    hidden = jax.nn.relu(images @ params["layer0"]["w"] + params["layer0"]["b"])
    logits = hidden @ params["layer1"]["w"] + params["layer1"]["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def flat(tree):
    """A pytree as a dict of arrays, by names like "layer0/w"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def batches():
    """Every step's epoch and batch: the examples in a new order in each epoch."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    rng = np.random.default_rng(SEED)
    steps = len(labels) // BATCH
    for epoch in range(EPOCHS):
        for i, batch in enumerate(rng.permutation(len(labels))[:steps * BATCH].reshape(steps, BATCH)):
            yield epoch + i / steps, images[batch], labels[batch]


def summary(path):
    """What `lpa analyze` says of a run."""
    return polars.read_parquet_metadata(lpa.analyze(path, frame="path"))["lpa.summary"]


def main(path):
    params = network(jax.random.key(SEED))
    optimizer = optax.sgd(LR, MOMENTUM)
    state = optimizer.init(params)

    @jax.jit
    def gradient(params, images, labels):
        return jax.value_and_grad(loss_of)(params, images, labels)

    @jax.jit
    def update(params, gradient, state):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    # By these names lpa knows what optax.sgd does; it needs them to tell signal from bias.
    hyperparameters = {"lr": LR, "momentum": MOMENTUM, "dampening": 0, "weight_decay": 0, "nesterov": False}
    scalars = {f"{name}/0": value for name, value in hyperparameters.items() if name != "nesterov"}
    with lpa.Writer(path, flat(params), optimizer={"name": "sgd", "param_groups": [hyperparameters]},
                    metadata={"jax": jax.__version__, "optax": optax.__version__, "seed": SEED}) as writer:
        for epoch, images, labels in batches():
            loss, g = gradient(params, images, labels)
            writer.step(flat(params), {"grad": flat(g)},
                        {"loss": loss, "epoch": epoch, "batch_size": BATCH, **scalars})
            params, state = update(params, g, state)
        writer.finish(flat(params))
    print(summary(path))


if __name__ == "__main__":
    main(sys.argv[1])
