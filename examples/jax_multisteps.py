"""A training in JAX that accumulates gradients, recorded: with optax's `MultiSteps` only real updates are steps.

Run it as `python examples/jax_multisteps.py RUN` (needs what jax_digits.py does); it takes a few seconds.
"""

import sys

import jax
import jax.numpy as jnp
import optax
from jax_digits import BATCH, LR, MOMENTUM, SEED, batches, flat, loss_of, network, summary

import lpa

EVERY = 4
HYPERPARAMETERS = {"lr": LR, "momentum": MOMENTUM}


def keep_gradient():
    """Changes nothing; its state is the gradient that what follows it in a chain has had last."""
    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), lambda g, *_: (g, g))


def main(path):
    params = network(jax.random.key(SEED))
    optimizer = optax.MultiSteps(optax.chain(keep_gradient(), optax.sgd(LR, MOMENTUM)), EVERY)
    state = optimizer.init(params)

    @jax.jit
    def mini_step(params, state, images, labels):
        loss, gradient = jax.value_and_grad(loss_of)(params, images, labels)
        updates, state = optimizer.update(gradient, state, params)
        return loss, optax.apply_updates(params, updates), state

    with lpa.Writer(path, flat(params), optimizer={"name": "sgd", "param_groups": [HYPERPARAMETERS]},
                    metadata={"jax": jax.__version__, "optax": optax.__version__, "seed": SEED}) as writer:
        losses = []
        for epoch, images, labels in batches():
            before = params
            loss, params, state = mini_step(params, state, images, labels)
            losses.append(float(loss))
            if optimizer.has_updated(state):
                # The mean of the gradients since the update before, as SGD has had it.
                gradient, _ = state.inner_opt_state
                writer.step(flat(before), {"grad": flat(gradient)},
                            {"loss": sum(losses) / EVERY, "epoch": epoch, "batch_size": BATCH * EVERY, "lr/0": LR})
                losses.clear()
        writer.finish(flat(params))
    print(summary(path))


if __name__ == "__main__":
    main(sys.argv[1])
