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
# # An algorithm of your own, in one file
#
# A learner is four pure functions of **one** episode: `init`, `adapt`, `predict`, `loss`. Sampling,
# `vmap` over episodes, devices, the optimiser, evaluation and its intervals are the engine's. Here
# is one that no paper has: prototypes under a distance whose weight for each feature is learned.
# It takes a little over a minute on two cores.

# %%
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import medmeta_jax as mm
from medmeta_jax.losses import query_loss
from medmeta_jax.types import checked


class Adapted(NamedTuple):
    """Arrays only: what `predict` needs."""

    body: Any
    weights: jax.Array
    prototypes: jax.Array
    stats: Any


def weighted_protonet(backbone, *, outputs, loss=mm.cross_entropy):
    """logits_k(x) = -Σ_i softplus(w_i) (f_i(x) - c_ki)², c_k the mean over the support of class k.

    meta_params: {"body", "weights"}.
    """

    def init(key, x):
        body = backbone.init(key, x)
        features, _ = jax.eval_shape(backbone.apply, body, x, jnp.ones(len(x), bool))
        return {"body": body, "weights": jnp.full(features.shape[-1], 0.54)}  # softplus is 1

    def adapt(theta, support, key, steps=None):
        features, stats = backbone.apply(theta["body"], support.x, support.mask)
        of = jax.nn.one_hot(support.y, outputs) * support.mask[:, None]
        means = of.T @ features / jnp.maximum(of.sum(0), 1)[:, None]
        return Adapted(theta["body"], jax.nn.softplus(theta["weights"]), means, stats)

    def predict(adapted, x, mask):
        features, _ = backbone.apply(adapted.body, x, mask, adapted.stats)
        gaps = (features[:, None] - adapted.prototypes) ** 2
        return -(gaps * adapted.weights).sum(-1)

    loss_of_episode = query_loss(adapt, predict, loss)
    return checked(mm.MetaLearner(init, adapt, predict, loss_of_episode, backbone.norm))


# %% [markdown]
# ## Does it do what it should?
#
# Two things are true of any learner whose head is built from the support, and cheap to ask: the
# support's order changes nothing, and renaming the classes renames the predictions. A file in
# `medmeta_jax/algorithms/` is asked these and more by the contract suite, by being there.

# %%
split = mm.make_split(mm.load("anatomy", image_size=16))
sampler = functools.partial(
    mm.sample, spec=mm.EpisodeSpec(ways=5, shots=2, queries=10, disjoint="group")
)
episode = jax.jit(sampler)(jax.random.key(0), split.pools["train"])
learner = weighted_protonet(mm.conv4(width=12, depth=2), outputs=5)
theta = learner.init(jax.random.key(0), episode.support.x)


@jax.jit
def told(support):
    adapted = learner.adapt(theta, support, jax.random.key(0))
    return learner.predict(adapted, episode.query.x, episode.query.mask)


plain = told(episode.support)
order = jax.random.permutation(jax.random.key(1), 10)
shuffled = jax.tree.map(lambda leaf: leaf[order], episode.support)
renamed = episode.support._replace(y=(episode.support.y + 1) % 5)
{
    "order": float(jnp.abs(told(shuffled) - plain).max()),
    "names": float(jnp.abs(jnp.roll(told(renamed), -1, axis=1) - plain).max()),
}

# %% [markdown]
# ## Trained, beside ProtoNet
#
# On the same budget, from the same seed, judged on the same 200 episodes of regions and a template
# that training never saw. The difference is paired by episode; with one seed it says nothing of
# another training.


# %%
def trained(learner):
    optimiser = optax.adam(3e-3)
    step = mm.make_step(learner, sampler, optimiser, mm.accuracy, meta_batch=4, dispatch=40)
    state = mm.init_state(learner, optimiser, jax.random.key(0), episode.support.x)
    pool = split.pools["train"]
    return list(mm.fit(step, mm.start(state), pool, steps=120, dispatch=40))


unseen = mm.FixedEpisodes(sampler, split.pools["test"], mm.episode_keys(0, 200))
learners = {
    "weighted": learner,
    "protonet": mm.protonet(mm.conv4(width=12, depth=2), outputs=5),
}
reports = {name: trained(one) for name, one in learners.items()}
params = {name: of[-1].progress.state.params for name, of in reports.items()}
scores = {name: mm.evaluate(one, params[name], unseen).main for name, one in learners.items()}
gap = scores["weighted"] - scores["protonet"]
{
    **{name: f"{100 * of.mean():.1f}" for name, of in scores.items()},
    "weighted minus protonet": f"{100 * gap.mean():+.1f} ± {196 * gap.std() / len(gap) ** 0.5:.1f}",
}

# %% [markdown]
# Left: meta-training. Right: the weights that were learned, from the largest to the smallest, all
# of them 1 at the start.

# %%
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
for (name, of), style in zip(reports.items(), ("-", "--"), strict=True):
    left.plot([r.step for r in of], [100 * r.metrics.score.mean() for r in of], style, label=name)
left.set(xlabel="meta-step", ylabel="accuracy in training, per cent")
left.legend(frameon=False)
right.plot(jnp.sort(jax.nn.softplus(params["weighted"]["weights"]))[::-1], color="black")
right.axhline(1, color="grey", linestyle="--")
right.set(xlabel="feature", ylabel="weight", ylim=(0, None))
figure.tight_layout()

# %% [markdown]
# Saved as `medmeta_jax/algorithms/weighted_protonet.py`, the same function is
# `medmeta train --algorithm weighted_protonet`, a row of `medmeta bench methods`, and a case of the
# tests: nothing is registered. [`CONTRIBUTING.md`](../CONTRIBUTING.md) says what a file holds.
