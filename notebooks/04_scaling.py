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
# # Scaling: what is spread over devices, and what they say to each other
#
# Episodes of a meta-batch know nothing of one another until their gradients are averaged. So they
# are spread over a mesh of devices with one axis, and a step of any number of devices, on one
# machine or on several, has one thing to communicate. Here the mesh is made of a CPU that passes
# for four devices; on a GPU node it is the same program with `jax.devices()` as they are. It takes
# a little over a minute on two cores.

# %%
import functools
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import medmeta_jax as mm

mm.use_cpu_devices(4)  # before JAX computes anything; not needed where there are GPUs
split = mm.make_split(mm.load("anatomy", image_size=12))
spec = mm.EpisodeSpec(ways=5, shots=1, queries=5, disjoint="group")
sampler = functools.partial(mm.sample, spec=spec)
learner = mm.maml(mm.conv4(width=16, depth=1), outputs=5, steps=2)
optimiser = optax.adam(3e-3)
example = jax.jit(sampler)(jax.random.key(0), split.pools["train"])
jax.devices()

# %% [markdown]
# ## One program for one device and for four
#
# `make_step` takes a mesh; the rest is as on one device. State and pool are put on all devices, and
# each device draws its own share of the episodes from the same keys, so that nothing but the
# gradient depends on how many there are. Four devices give the parameters of one up to the order in
# which sums are rounded.


# %%
def compiled(devices, meta_batch=8):
    """The training step on so many devices, with the state and the pool that it takes."""
    mesh = mm.task_mesh(jax.devices()[:devices])
    step = mm.make_step(
        learner, sampler, optimiser, mm.accuracy, meta_batch=meta_batch, dispatch=20, mesh=mesh
    )
    state = mm.init_state(learner, optimiser, jax.random.key(0), example.support.x)
    state, pool = mm.replicate((state, split.pools["train"]), mesh)
    return step.lower(state, pool, np.int32(1)).compile(), state, pool


programs = {devices: compiled(devices) for devices in (1, 2, 4)}
# The state is donated to the step, which writes the new one in its place: a copy is kept.
after = {
    devices: step(jax.tree.map(jnp.copy, state), pool, np.int32(3))[0].params
    for devices, (step, state, pool) in programs.items()
}
{
    devices: max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(after[1]), strict=True)
    )
    for devices, params in after.items()
}

# %% [markdown]
# ## What the compiled program communicates
#
# Read off the program that XLA made, after all its optimisations: every operation between devices,
# and how many numbers it carries. It is one all-reduce a step: of the meta-gradient, and of the
# loss and the score beside it. No image, no episode, no inner step crosses from one device to
# another.

# %%
BETWEEN_DEVICES = r"= (.*?) (all-[a-z]+|collective-[a-z]+|reduce-scatter)(?:-start)?\("


def communicated(program):
    """[(operation, numbers it carries)] of a compiled program."""
    found = []
    for shape, name in re.findall(BETWEEN_DEVICES, program.as_text()):
        sizes = re.findall(r"\[([\d,]*)\]", shape)
        found.append((name, sum(int(np.prod([int(n) for n in s.split(",") if n])) for s in sizes)))
    return found


parameters = sum(leaf.size for leaf in jax.tree.leaves(after[1]))
{"parameters": parameters} | {n: communicated(step) for n, (step, _, _) in programs.items()}

# %% [markdown]
# ## What it is worth here
#
# Two of the four devices are real in the sense that each has a core of its own here; the other two
# share them. So two should be nearly twice as quick as one, and four no quicker. Each bar is the
# median of five calls of ten steps, the line their range.


# %%
def episodes_a_second(devices, calls=5, steps=10):
    step, state, pool = programs[devices]
    state = jax.tree.map(jnp.copy, state)
    rates = []
    for _ in range(calls + 1):
        began = time.perf_counter()
        state, metrics = step(state, pool, np.int32(steps))
        jax.block_until_ready(metrics)
        rates.append(8 * steps / (time.perf_counter() - began))
    return np.sort(rates[1:])  # the first warms up


rates = {devices: episodes_a_second(devices) for devices in programs}

# %%
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
names = [str(devices) for devices in rates]
middle = np.asarray([np.median(of) for of in rates.values()])
ends = np.asarray([[of[0], of[-1]] for of in rates.values()]).T
left.bar(names, middle, yerr=np.abs(ends - middle), color="#0072b2", capsize=3)
left.set(xlabel="devices", ylabel="episodes a second")

# Not measured: by arithmetic, a ring passes each number twice, whatever the number of devices.
sizes = np.logspace(3, 8, 50)
for link, speed, style in (
    ("within a node, 300 GB/s", 300e9, "-"),
    ("between nodes, 25 GB/s", 25e9, "--"),
    ("1 GB/s", 1e9, ":"),
):
    right.loglog(sizes, 2 * 4 * sizes / speed * 1e3, style, label=link)
right.axvline(parameters, color="grey", linewidth=0.8)
right.set(xlabel="parameters (grey: here)", ylabel="ms a step, by arithmetic")
right.legend(frameon=False, fontsize=8)
figure.tight_layout()

# %% [markdown]
# Right: the least time that the one all-reduce of a step takes over links of three speeds, latency
# apart. A step of second-order MAML takes tens to hundreds of milliseconds, so that the links of a
# node are no limit below a hundred million parameters. **This is arithmetic; no GPU was at hand.**
#
# ## Several processes
#
# On clusters each node, or each GPU, is a process. `medmeta launch` starts several on one machine,
# with a core each; `medmeta train --distributed` finds those that SLURM, Open MPI or Kubernetes
# started. One writes and prints; a signal to any of them saves and stops all of them at the same
# step; when one is lost, the others end within a minute and the run resumes in any number.

# %%
import os
import subprocess
import sys
import tempfile

# fmt: off
command = [
    sys.executable, "-m", "medmeta_jax", "launch", "--processes", "2", "--", "train",
    "--algorithm", "protonet", "--image-size", "12", "--net.width", "8", "--net.depth", "1",
    "--augment", "flip", "--queries", "5", "--meta-steps", "40", "--validate-every", "20",
    "--val-episodes", "20", "--test-episodes", "100", "--baselines", "none", "--meta-batch", "8",
]
# fmt: on
with tempfile.TemporaryDirectory() as runs:
    done = subprocess.run(
        command, capture_output=True, text=True, check=True,
        env={**os.environ, "MEDMETA_RUNS": runs},
    )  # fmt: skip
said = [line for line in done.stderr.splitlines() if "/" not in line]  # without paths
print("\n".join(said + done.stdout.splitlines()))
