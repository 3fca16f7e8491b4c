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
# # MAML from scratch
#
# Second-order MAML in plain JAX, in thirty lines, on brain regions of the built-in data; then the
# same from the library, which must give the same gradient. It runs in half a minute on two cores.
#
# An *episode* is one small task: a *support* set of labelled images to learn from, and a *query*
# set to be judged on. MAML learns a start θ from which a few steps of gradient descent on the
# support make a network that does well on the query (Finn, Abbeel, Levine, 2017, arXiv 1703.03400):
#
# $$\theta' = \theta - \alpha \nabla_\theta L_\text{support}(\theta), \qquad
#   \min_\theta \; \mathbb{E}_\text{episodes}\; L_\text{query}(\theta'(\theta))$$
#
# The outer gradient passes through the inner steps: it is a gradient of gradients, and `jax.grad`
# takes it as any other.

# %%
import functools

import jax
import jax.numpy as jnp
import optax

import medmeta_jax as mm

split = mm.make_split(mm.load("anatomy", image_size=16))
spec = mm.EpisodeSpec(ways=5, shots=1, queries=10, disjoint="group")
sampler = functools.partial(mm.sample, spec=spec)
episode = jax.jit(sampler)(jax.random.key(0), split.pools["train"])
episode.support.x.shape, episode.query.x.shape

# %% [markdown]
# ## A network, a loss, an episode, a gradient
#
# One hidden layer, and nothing but functions of arrays. `episode_loss` is of **one** episode;
# `jax.vmap` makes it one of many.

# %%
STEPS, RATE = 3, 0.5


def init(key):
    body, head = jax.random.split(key)
    return {
        "body": {"w": jax.random.normal(body, (256, 64)) / 16, "b": jnp.zeros(64)},
        "head": {"w": jax.random.normal(head, (64, 5)) / 8, "b": jnp.zeros(5)},
    }


def network(params, x):
    hidden = jnp.tanh(x.reshape(len(x), -1) @ params["body"]["w"] + params["body"]["b"])
    return hidden @ params["head"]["w"] + params["head"]["b"]


def loss(params, examples):
    logs = jax.nn.log_softmax(network(params, examples.x))
    own = jnp.take_along_axis(logs, examples.y[:, None], 1)[:, 0]
    return -jnp.where(examples.mask, own, 0).sum() / examples.mask.sum()


def adapt(params, support, steps=STEPS):
    for _ in range(steps):
        slope = jax.grad(loss)(params, support)
        params = jax.tree.map(lambda p, g: p - RATE * g, params, slope)
    return params


def episode_loss(params, episode):
    return loss(adapt(params, episode.support), episode.query)


@jax.jit
def meta_gradient(params, keys):
    episodes = jax.vmap(sampler, (0, None))(keys, split.pools["train"])
    return jax.grad(lambda p: jax.vmap(episode_loss, (None, 0))(p, episodes).mean())(params)


# %% [markdown]
# ## The same from the library
#
# A backbone is a pair of functions, and `mm.maml` puts a linear head on it. From the same start and
# on the same episodes both give the same gradient, to rounding.

# %%
backbone = mm.Backbone(
    init=lambda key, x: init(key)["body"],
    apply=lambda p, x, mask, stats=None: (
        jnp.tanh(x.reshape(len(x), -1) @ p["w"] + p["b"]),
        None,
    ),
)
learner = mm.maml(backbone, outputs=5, steps=STEPS, inner_lr=RATE)


def in_the_library(params):
    head = {"kernel": params["head"]["w"], "bias": params["head"]["b"]}
    return {"body": params["body"], "head": head}


@jax.jit
def library_gradient(theta, keys):
    episodes = jax.vmap(sampler, (0, None))(keys, split.pools["train"])

    def one(p, episode):
        return learner.loss(p, episode, jax.random.key(0), jnp.asarray(0))[0]

    return jax.grad(lambda p: jax.vmap(one, (None, 0))(p, episodes).mean())(theta)


params = init(jax.random.key(0))
keys = jax.random.split(jax.random.key(1), 8)
ours = in_the_library(meta_gradient(params, keys))
theirs = library_gradient(in_the_library(params), keys)
gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), ours, theirs)
assert max(jax.tree.leaves(gaps)) < 1e-4
gaps

# %% [markdown]
# What is left out by a **first-order** gradient, which takes the inner steps' slopes for constants,
# shows by the angle between the two.

# %%
first = mm.fomaml(backbone, outputs=5, steps=STEPS, inner_lr=RATE)
episodes = jax.vmap(sampler, (0, None))(keys, split.pools["train"])


@jax.jit
def first_order(theta):
    def one(p, episode):
        return first.loss(p, episode, jax.random.key(0), jnp.asarray(0))[0]

    return jax.grad(lambda p: jax.vmap(one, (None, 0))(p, episodes).mean())(theta)


a, b = (jnp.concatenate([g.ravel() for g in jax.tree.leaves(t)])
        for t in (theirs, first_order(in_the_library(params))))  # fmt: skip
cosine = float(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))
f"cosine between the second- and the first-order gradient: {cosine:.2f}"

# %% [markdown]
# ## Training
#
# Adam on the meta-gradient, and accuracy on regions and a template that training never saw, after
# 0 to 5 inner steps, before and after.

# %%
optimiser = optax.adam(2e-3)


@jax.jit
def many_steps(params, state, keys):
    def one(carry, keys):
        params, state = carry
        updates, state = optimiser.update(meta_gradient(params, keys), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(one, (params, state), keys)[0]


@jax.jit
def accuracies(params, keys):
    def one(key):
        episode = sampler(key, split.pools["test"])

        def after(steps):
            told = network(adapt(params, episode.support, steps), episode.query.x).argmax(-1)
            right = (told == episode.query.y) & episode.query.mask
            return right.sum() / episode.query.mask.sum()

        return jnp.stack([after(steps) for steps in range(6)])

    return jax.lax.map(one, keys)


trained, _ = many_steps(
    params, optimiser.init(params), jax.random.split(jax.random.key(2), (400, 4))
)
unseen = jax.random.split(jax.random.key(3), 200)
before, after = accuracies(params, unseen), accuracies(trained, unseen)
{"before": before.mean(0).round(3), "after": after.mean(0).round(3)}

# %%
import matplotlib.pyplot as plt

figure, axis = plt.subplots(figsize=(5, 3.2))
for scores, label, style in ((before, "random start", "s--"), (after, "meta-trained", "o-")):
    margin = 1.96 * scores.std(0) / len(scores) ** 0.5
    axis.errorbar(range(6), 100 * scores.mean(0), 100 * margin, fmt=style, label=label)
axis.set(xlabel="inner steps", ylabel="accuracy on unseen regions, per cent")
axis.legend(frameon=False)
figure.tight_layout()

# %% [markdown]
# The library does the same with convolutions that stay fast when every episode has weights of its
# own, memory that does not grow with the number of inner steps, any number of devices, and
# checkpoints: [`01_quickstart`](01_quickstart.ipynb).
