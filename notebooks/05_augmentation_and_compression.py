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
# # Learned augmentation, and a smaller network
#
# Two things that are usually done by hand and by taste, done here by the meta-gradient: which
# changes of the few labelled images make adaptation better, and which channels of a network can go.
# It takes a little over a minute on two cores.

# %%
import dataclasses
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import medmeta_jax as mm
from medmeta_jax import registry, running
from medmeta_jax.augment._ops import augment_examples
from medmeta_jax.compress import scores
from medmeta_jax.compress.channels import channels_of
from medmeta_jax.compress.slicing import best, fewer, flops, masked, sliced

config = mm.TrainConfig(
    algorithm="protonet", image_size=16, net={"width": 12, "depth": 2}, augment=(),
    policy=("rotate", "noise"), queries=10, meta_steps=200, val_episodes=20, test_episodes=200,
)  # fmt: skip
made = mm.build(config)
pool = made.split.pools["train"]

# %% [markdown]
# ## What an op does, and how much
#
# Each op is made with a magnitude, and its image is differentiable in it. One image, at none, one
# and three of each op's default:

# %%
image = jax.jit(made.sampler)(jax.random.key(3), pool).support.x[0]
names = ("rotate", "elastic", "noise", "bias_field", "contrast", "blur")
figure, axes = plt.subplots(3, len(names), figsize=(9, 4.4))
for name, column in zip(names, axes.T, strict=True):
    default, make = (
        registry.defaults("augment", name)["magnitude"],
        registry.factory("augment", name),
    )

    @jax.jit
    def changed(magnitude, make=make):
        return mm.apply_ops([make(magnitude=magnitude)], jax.random.key(0), image)[0]

    for times, axis in zip((0.0, 1.0, 3.0), column, strict=True):
        axis.imshow(changed(times * default)[..., 0], cmap="gray")
        axis.set(xticks=[], yticks=[])
    column[0].set_title(name, fontsize=9)
for times, axis in zip((0, 1, 3), axes[:, 0], strict=True):
    axis.set_ylabel(f"{times} × default", fontsize=8)
figure.tight_layout()

# %% [markdown]
# ## A nuisance that the policy is not told of
#
# Every query below, in meta-training and at meta-test, is turned by an angle up to three times the
# op's default; the supports are not. So supports that are turned as well should help, and supports
# with noise should not. The policy may choose between turning, noise and neither, for a copy of
# each support image, and how much: choice and magnitude are parameters like the network's, moved by
# the same meta-gradient. (Planted, hence simulated; `python -m benchmarks.nuisance` is the same
# with seeds, strengths and intervals.)

# %%
NUISANCE = 3 * registry.defaults("augment", "rotate")["magnitude"]
turn = registry.factory("augment", "rotate")(magnitude=NUISANCE)


def turned(sampler):
    """The sampler, its queries turned."""

    def draw(key, pool):
        episode = sampler(key, pool)
        query = augment_examples([turn], jax.random.fold_in(key, 77), episode.query)
        return episode._replace(query=query)

    return draw


sampler = turned(made.sampler)
unseen = made.test._replace(sampler=sampler)


own = made._replace(sampler=sampler)
state = running.initial_progress(own, own.training).state
step = running.compile_step(own, own.training).step
policies = {}
for report in mm.fit(step, mm.start(state), pool, steps=200, dispatch=25, validate_every=25):
    # To be read now: the next step writes its own state in this one's place.
    learned = report.progress.state.params
    policies[report.step] = running.by_policy(made, learned)

# The same network, with the changed copies in its support at meta-test and without them.
plain, params = mm.build(dataclasses.replace(config, policy=())), learned["learner"]
found = {
    "without copies": mm.evaluate(plain.learner, params, unseen).main,
    "with copies": mm.evaluate(made.learner, learned, unseen).main,
}
gap = found["with copies"] - found["without copies"]
{
    **{name: f"{100 * of.mean():.1f}" for name, of in found.items()},
    "with minus without": f"{100 * gap.mean():+.1f} ± {196 * gap.std() / len(gap) ** 0.5:.1f}",
}

# %% [markdown]
# What the policy became, step by step: left, how often a copy is changed by each op, or by none;
# right, the magnitudes, in units of each op's default. Of the two ops the one that is needed is
# drawn more and more often. Its magnitude does not follow, probably because a turn moves an image's
# edges by whole pixels, and the derivative by the angle sees no further than the next one. What the
# copies are worth is above, for this network, which was trained with them; what training with them
# is worth, against training without, `python -m benchmarks.nuisance` tells, with seeds.

# %%
steps, default = list(policies), policies[25]["default"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
for name, style in (("rotate", "-"), ("noise", "--"), ("none", ":")):
    left.plot(steps, [100 * one["share"][name] for one in policies.values()], style, label=name)
for name, style in (("rotate", "-"), ("noise", "--")):
    values = [one["magnitude"][name] / default[name] for one in policies.values()]
    right.plot(steps, values, style, label=name)
right.axhline(NUISANCE / default["rotate"], color="grey", linewidth=0.8)
left.set(xlabel="meta-step", ylabel="of copies, per cent", ylim=(0, 100))
right.set(xlabel="meta-step", ylabel="magnitude, × default (grey: planted)", ylim=(0, None))
left.legend(frameon=False)
figure.tight_layout()

# %% [markdown]
# ## A smaller network
#
# Channels are scored by how much the **meta-loss** would miss them: the loss after adaptation, not
# that of a classifier. Taking them out for good gives the very numbers that zeroing them gives:

# %%
learner, widths = plain.learner, (12, 12)
channels = channels_of("conv4", widths, plain.config.norm)
worth = scores.sensitivity(
    learner, params, channels, lambda key: sampler(key, pool), jax.random.key(0)
)


def smaller(width, by):
    """The learner with so many channels a layer, and its parameters."""
    left = fewer(widths, width / 12)
    one = mm.protonet(mm.conv4(widths=left), outputs=plain.outputs)
    kept = best(channels, by, left)
    like = jax.eval_shape(one.init, jax.random.key(0), made.example_x)
    return one, sliced(params, channels, kept, like), kept


half, half_params, kept = smaller(6, worth)
episode = jax.jit(sampler)(jax.random.key(1), pool)


@functools.partial(jax.jit, static_argnums=0)
def logits(learner, params):
    adapted = learner.adapt(params, episode.support, jax.random.key(0))
    return learner.predict(adapted, episode.query.x, episode.query.mask)


zeroed = logits(learner, masked(params, channels, kept))
float(jnp.abs(zeroed - logits(half, half_params)).max() / jnp.abs(zeroed).max())

# %% [markdown]
# What is left when channels go, without any training after it: by the meta-loss, by the size of
# weights, and by chance. (`python -m benchmarks.compression` trains on, with the whole network as
# teacher, and measures files, memory and milliseconds.)

# %%
chance = scores.random(jax.random.key(0), channels)
ways = {"meta-loss": worth, "weights": scores.magnitude(params, channels), "chance": chance}
one_image = made.example_x[:1]


def cost(learner, params):
    """Operations to tell one image, counted in the compiled program."""
    adapted = jax.eval_shape(learner.adapt, params, episode.support, jax.random.key(0))
    return flops(learner.predict, adapted, one_image, jnp.ones(1, bool)) / 1e6


def told_right(learner, params):
    return 100 * mm.evaluate(learner, params, unseen).main.mean()


costs, rights = [cost(learner, params)], {name: [told_right(learner, params)] for name in ways}
for width in (6, 3):
    one, _, _ = smaller(width, worth)  # one learner, and so one program, for all ways
    for name, by in ways.items():
        own = smaller(width, by)[1]
        rights[name].append(told_right(one, own))
    costs.append(cost(one, own))

# %%
figure, axis = plt.subplots(figsize=(5, 3.2))
for (name, values), style in zip(rights.items(), ("o-", "s--", "^:"), strict=True):
    axis.plot(costs, values, style, label=f"by {name}")
axis.axhline(100 / made.outputs, color="grey", linewidth=0.8)
axis.set(xlabel="MFLOP to tell an image", ylabel="accuracy, per cent (grey: chance)")
axis.legend(frameon=False)
figure.tight_layout()
