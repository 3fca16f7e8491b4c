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
# # Ten lines to a result
#
# Second-order MAML learns to tell brain regions apart from one labelled image each, and is
# judged on regions and a template that it has never seen. Everything is a value; the loop
# over episodes, their gradients and the optimiser are one compiled program.
# It runs in about a minute on two CPU cores, most of it compiling, which is too short to
# learn much: the raw pixels are still ahead here, and fall behind in the longer run of
# `medmeta train`.

# %%
import functools

import jax
import optax

import medmeta_jax as mm

split = mm.make_split(mm.load("anatomy", image_size=28))
sampler = functools.partial(mm.sample, spec=mm.EpisodeSpec(ways=5, shots=1, disjoint="group"))
learner = mm.maml(mm.conv4(width=16, depth=3), outputs=5, steps=2)
optimiser = optax.adam(3e-3)
step = mm.make_step(learner, sampler, optimiser, mm.accuracy, meta_batch=4, dispatch=20)
example = jax.jit(sampler)(jax.random.key(0), split.pools["train"])
state = mm.init_state(learner, optimiser, jax.random.key(0), example.support.x)
reports = list(mm.fit(step, mm.start(state), split.pools["train"], steps=100, dispatch=20))
params = reports[-1].progress.state.params
unseen = mm.FixedEpisodes(sampler, split.pools["test"], mm.episode_keys(0, 100))
mm.evaluate(learner, params, unseen, steps=2).estimate("accuracy")

# %% [markdown]
# ## What it learned, and what each inner step gives
#
# Left: accuracy on the query images of the training episodes, as training goes on. Right:
# on unseen regions, after 0 to 5 steps on five labelled images, beside the nearest mean of
# raw pixels on the same episodes. Bars are 95% intervals over episodes.

# %%
import matplotlib.pyplot as plt

raw = mm.evaluate(mm.protonet(mm.pixels(), outputs=5), {"body": {}}, unseen)
by_step = [mm.evaluate(learner, params, unseen, steps=k).estimate("accuracy") for k in range(6)]

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
left.plot([r.step for r in reports], [r.metrics.score.mean() for r in reports], color="black")
left.set(xlabel="outer step", ylabel="accuracy", title="meta-training")
right.errorbar(range(6), [e.mean for e in by_step], [e.ci95 for e in by_step], color="black")
right.axhline(raw.estimate("accuracy").mean, color="grey", linestyle="--")
right.text(0, raw.estimate("accuracy").mean, "raw pixels", va="top", color="grey")
right.set(xlabel="inner steps", title="regions never seen")
figure.tight_layout()

# %% [markdown]
# ## One episode, as the learner meets it
#
# Five regions, one labelled image each (top), and query images of the same regions with the
# prediction above each; a cross marks an error. Episodes differ: where all five regions lie
# side by side, few are told apart.

# %%
key = jax.random.key(0)
episode = jax.jit(sampler)(key, split.pools["test"])
adapted = jax.jit(learner.adapt)(params, episode.support, key)
guess = jax.jit(learner.predict)(adapted, episode.query.x, episode.query.mask).argmax(-1)
names = [split.class_names[label] for label in episode.classes]

figure, axes = plt.subplots(4, 5, figsize=(9, 7.5))
for way in range(5):
    axes[0, way].imshow(episode.support.x[way, ..., 0], cmap="gray")
    axes[0, way].set_title(f"{way}: {names[way]}", fontsize=8)
    for row in range(3):
        place = way * 15 + 5 * row
        right_or_not = "" if guess[place] == way else "  ✗"
        axes[row + 1, way].imshow(episode.query.x[place, ..., 0], cmap="gray")
        axes[row + 1, way].set_title(f"said {guess[place]}{right_or_not}", fontsize=8)
for axis in axes.flat:
    axis.axis("off")
figure.tight_layout()
