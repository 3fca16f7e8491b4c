# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reading the uncertainty
#
# A probability of 90% should be right nine times in ten, and a set that promises to hold the truth
# should say how often it does. Both are fitted on meta-validation classes, and both can be asked
# for their word on classes that nothing was fitted on. It takes about a minute on two cores.

# %%
import jax
import numpy as np

import medmeta_jax as mm
from medmeta_jax import running, uncertainty
from medmeta_jax.metrics import calibration as sets
from medmeta_jax.metrics.pooled import softmax

config = mm.TrainConfig(
    algorithm="protonet", image_size=20, net={"width": 16, "depth": 3}, augment=(), ways=5,
    shots=1, meta_steps=200, validate_every=100, val_episodes=100, test_episodes=300,
)  # fmt: skip
made = mm.build(config)
step = running.compile_step(made, made.training).step
params = running.fit_quietly(made, step).best_params
told = uncertainty.predicted(made, params, made.test)
told.logits.shape  # episodes, queries, ways

# %% [markdown]
# ## A temperature
#
# One number divides all logits. It is chosen on tasks of the meta-validation classes, and changes
# no prediction: only how sure it is. Below, on meta-test, the queries by the probability of what
# they were taken for.

# %%
import matplotlib.pyplot as plt

fitted = mm.calibrate(made, params)
figure, axis = plt.subplots(figsize=(4.4, 4))
axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
for name, temperature, style in (
    ("as it is", 1.0, "s--"),
    (f"with T = {fitted.temperature:.2f}", fitted.temperature, "o-"),
):
    bins = sets.reliability(softmax(told.logits, temperature), told.y, told.mask)
    axis.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], style, label=name)
axis.set(xlabel="probability of the class told", ylabel="how often it is right")
axis.legend(frameon=False)
figure.tight_layout()

# %%
judged = mm.judged(fitted, told)
{
    name: f"calibration error {100 * judged[name]['ece']['mean']:.1f} ± "
    f"{100 * judged[name]['ece']['ci95']:.1f}"
    for name in ("as_is", "calibrated")
}

# %% [markdown]
# ## Sets that hold the truth
#
# Instead of one class, all that cannot be left out, so that the truth is among them nine times in
# ten. The promise is on average over tasks, and for tasks of the same classes. What it does not say
# shows in the histogram: of a single task, a clinic's, the sets may hold the truth far less often.

# %%
held = sets.prediction_sets(fitted, told.logits, told.classes)
covered, size = sets.covered(held, told.y, told.mask)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.hist(100 * covered, bins=20, color="#0072b2")
left.axvline(100 * fitted.coverage, color="black", linestyle="--", label="promised")
left.axvline(100 * covered.mean(), color="#d55e00", label="held, on average")
left.set(xlabel="truth in the set, per cent of a task's queries", ylabel="tasks")
left.legend(frameon=False)
counts = np.bincount(held.sum(-1)[told.mask], minlength=6)
right.bar(range(6), 100 * counts / counts.sum(), color="#0072b2")
right.set(xlabel="classes in the set", ylabel="queries, per cent")
figure.tight_layout()

# %%
worst = np.sort(covered)[: len(covered) // 10]
{
    "promised": f"{100 * fitted.coverage:.0f}",
    "held": f"{100 * covered.mean():.1f}",
    "in the worst tenth of tasks": f"{100 * worst.mean():.1f}",
    "classes in a set": f"{size.mean():.2f}",
}

# %% [markdown]
# ## What none of this sees
#
# A query that is of no class of the task still gets probabilities that sum to one. Here every query
# is replaced by an image of **another** region: the sets are hardly larger, since nothing in them
# asks whether an image belongs to the task at all. That question is answered otherwise: by how far
# an image's features are from the support's, which `medmeta predict` writes beside each prediction.

# %%
keys = mm.episode_keys(7, 100)
sampler, pool = made.sampler, made.split.pools["test"]


@jax.jit
def swapped(key):
    """An episode, and the queries of another one that shares no class with it, if any."""
    one, other = (sampler(k, pool) for k in jax.random.split(key))
    adapted = made.learner.adapt(params, one.support, key)
    alien = ~(other.classes[other.query.y][:, None] == one.classes).any(1) & other.query.mask
    own = made.learner.predict(adapted, one.query.x, one.query.mask)
    others = made.learner.predict(adapted, other.query.x, other.query.mask)
    return own, one.query.mask, others, alien


own, mask, others, alien = jax.lax.map(swapped, keys)
ways = np.zeros((len(keys), 5), int)
sizes = [
    sets.prediction_sets(fitted, np.asarray(logits), ways).sum(-1)[np.asarray(there)].mean()
    for logits, there in ((own, mask), (others, alien))
]
f"classes in a set: {sizes[0]:.2f} for the task's own images, {sizes[1]:.2f} for others"
