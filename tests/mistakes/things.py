"""The small right things that each mistake changes in one place."""

import dataclasses
import gzip

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sparsekd_jax import axioms, data, distill, models, operators, sparsity, targets, theory
from sparsekd_jax.targets import readers

P = jnp.array([0.7, 0.2, 0.1], jnp.float32)
ROWS = jnp.stack([P, P, P, P])
LOGITS = jnp.array([2.0, -1.0, 0.5], jnp.float32)
power = operators.get("power")
PARAMS = {"w": jnp.ones((6, 4), jnp.float32), "b": jnp.ones(4, jnp.float32)}
sgd = optax.sgd(0.1)


def toy(**changes):
    """Forty examples of eight numbers in three classes, one thing changed."""
    draw = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int32) % 3
    inputs = draw.normal(size=(40, 8)).astype(np.float32)
    return dataclasses.replace(data.Arrays(inputs, labels, inputs[:9], labels[:9], 3, "toy"), **changes)


def mlp(classes=3, inputs=8):
    return models.MLP((inputs, 4, classes), rngs=nnx.Rngs(0))


class Wrapped(nnx.Module):
    """A model that does something to its logits."""

    def __init__(self, last):
        self.model, self.last = mlp(), last

    def __call__(self, inputs):
        return self.last(self.model(inputs))


def counting():
    """A model that holds an integer among its parameters."""
    model = mlp()
    model.calls = nnx.Param(jnp.zeros((), jnp.int32))
    return model


def fit(model=None, arrays=None, **changes):
    options = {"steps": 2, "optimizer": sgd, "seed": 0, "batch_size": 8} | changes
    return distill.fit(model or mlp(), toy() if arrays is None else arrays, **options)


def run(student=None, teacher=None, plan=None, **changes):
    options = {"optimizer": sgd, "seed": 0, "batch_size": 8} | changes
    plan = distill.stages(sparsity=0.5, num_stages=1, total_steps=2) if plan is None else plan
    return distill.run(student or mlp(), mlp() if teacher is None else teacher, toy(), plan, **options)


def loaded_by_another_function(folder):
    distill.save_pretrained(mlp(), folder, {"classes": 3})
    distill.load_pretrained(folder, lambda width: mlp(width))


def resumed_with_another_plan(folder):
    fit(steps=1, checkpoint_dir=folder)
    fit(steps=2, checkpoint_dir=folder, resume=True)


def plan_of(*sparsities):
    stages = tuple(distill.Stage(s, temperature=4.0, steps=2, scale=16.0, alpha=0.1) for s in sparsities)
    return distill.Plan(power, stages, soften_student=True, score="magnitude", pattern="global")


def check(operator, **options):
    quick = axioms.Budget(sweep=5, limits=1, search=0, shrink=1)
    return axioms.check(operator, **{"laws": ("A4",), "num_classes": (3,), "budget": quick} | options)


def masks_at(rate, params=PARAMS, **options):
    return sparsity.update_masks(sparsity.sparsify(sgd).init(PARAMS), params, rate, **options)


def masks_of_variables(rate):
    model = mlp()
    trainer = nnx.Optimizer(model, sparsity.sparsify(sgd), wrt=nnx.Param)
    return sparsity.update_masks(trainer.opt_state, nnx.state(model, nnx.Param), rate)


def observed_loss(target):
    return distill.distillation_loss(jnp.zeros((1, 3)), target, operator=power, temperature=2.0)


def numpy_loss():
    def own(p, temperature):
        return np.power(p, 1 / temperature) / np.power(p, 1 / temperature).sum()

    return distill.distillation_loss(ROWS, ROWS, operator=own, temperature=2.0, scale=4.0)


def linen():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(3)(inputs)

    return Linen()


def loaded_by_its_class(folder):
    distill.save_pretrained(mlp(), folder, {"width": 4})
    distill.load_pretrained(folder, models.MLP)


def seen(ids, probs, size=9):
    return targets.TopK.observed(np.array(ids), np.log(np.array(probs, np.float32)), vocab_size=size)


def read(folder, text):
    (folder / "log.jsonl").write_text(text)
    return list(readers.read_targets(folder / "log.jsonl", k=2, vocabulary=9))


def read_compressed(folder):
    (folder / "log.jsonl").write_bytes(gzip.compress(b"{}\n", mtime=0))
    return list(readers.read_targets(folder / "log.jsonl", k=2, vocabulary=9))


def ensembles(m=3, n=4, classes=3):
    return np.random.default_rng(m).dirichlet(np.ones(classes), size=(m, n)).astype(np.float32)


def compare(sparse, dense, labels=(0, 1, 2, 0)):
    return theory.bias_variance.compare(sparse, dense, labels=np.array(labels))
