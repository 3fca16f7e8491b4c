"""What adapting to a patient is worth where that is known: `python -m benchmarks.personal_effect`.

Patients of the phantom (simulated lesions on real average anatomy), each with one lesion and many
scans. On each scan the lesion's brightness is

    m = z + o,   z ~ N(0, 1) of the scan,   o ~ N(0, s²) of the patient;   the label is z > 0

so that whoever knows o tells every scan, and whoever does not is at best right

    1/2 + arcsin(1 / sqrt(1 + s²)) / π

of the time, by the sign of m. Between the two stands an ideal reader of m, who has k scans of
either label and no more: by the posterior of o, which is computed. The table holds the learner, the
one model for all that is trained without adaptation, and the learner whose adaptation the support
may switch off, against these three numbers; with s = 0 there is nothing to adapt to, and adapting
must do no harm. Learners see pictures with noise, and have to find the lesion.

With the norm within each image ("group") the one model sees nothing of a patient but the image that
it is asked of. With the support's statistics (`--norm support`) it is told of o by them, and is no
longer one model for all: its row is then that of adapting by statistics alone.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report
from benchmarks.machine import say
from medmeta_jax import baselines, console, running, verbs
from medmeta_jax.config import check
from medmeta_jax.data.phantom_anatomy import read_anatomy
from medmeta_jax.data.phantom_lesions import TYPES
from medmeta_jax.data.phantom_scan import scan, scene
from medmeta_jax.details import by_patient
from medmeta_jax.settings import TrainConfig

KIND, CONTRAST = "bright_disc", 0.4  # of the type's own, where m is 1
SCANS = 40  # of a patient
QUERIES = 10


def one_model(spread: float) -> float:
    """The best accuracy of one model for all patients.

    >>> one_model(0.0), round(one_model(1.0), 6)
    (1.0, 0.75)
    """
    return 0.5 + math.asin(1 / math.sqrt(1 + spread**2)) / math.pi


def ideal_reader(spread: float, shots: int, *, patients: int = 4000, seed: int = 0) -> float:
    """The accuracy of the best reader of m that has `shots` scans of either label, by simulation
    of so many patients and the posterior of o, which lies between the scans of either label."""
    if spread == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    shares, right = (np.arange(200) + 0.5) / 200, 0.0
    for _ in range(patients):
        o = spread * rng.normal()
        z = np.abs(rng.normal(size=(2, shots)))
        above, below = z[0] + o, o - z[1]
        grid = below.max() + (above.min() - below.max()) * shares
        away = np.concatenate([above, below])[:, None] - grid
        log = -0.5 * (grid / spread) ** 2 - 0.5 * (away**2).sum(0)
        weight = np.exp(log - log.max())
        asked = rng.normal(size=16)
        near = np.exp(-0.5 * ((asked + o)[:, None] - grid) ** 2) * weight
        yes = np.where((asked + o)[:, None] > grid, near, 0).sum(1)
        right += ((yes > near.sum(1) - yes) == (asked > 0)).mean()
    return right / patients


def render(patients: int, spread: float, size: int, seed: int) -> dict[str, np.ndarray]:
    """The images, labels, patients and times of an archive."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(patients, SCANS)).astype(np.float32)
    m = z + spread * rng.normal(size=(patients, 1)).astype(np.float32)
    anatomy, kind = jnp.asarray(read_anatomy()), TYPES[KIND]

    @jax.jit
    def one(number: jax.Array, brightness: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), number)
        patient_key, lesion_key, scan_key = jax.random.split(key, 3)
        seen = scene(anatomy, patient_key, lesion_key, kind, modalities=("flair",), size=size)
        keys = jax.random.split(scan_key, SCANS)
        greys = jax.lax.map(
            lambda each: scan(seen, each[0], CONTRAST * each[1]), (keys, brightness)
        )
        return jnp.round(jnp.clip(greys[..., 0], 0, 1) * 255).astype(jnp.uint8)

    images = [
        np.asarray(one(jnp.asarray(p, jnp.uint32), jnp.asarray(m[p]))) for p in range(patients)
    ]
    return {
        "images": np.concatenate(images),
        "labels": (z > 0).astype(np.int32).ravel(),
        "groups": np.repeat([f"patient-{p:04d}" for p in range(patients)], SCANS),
        "times": np.tile(np.arange(SCANS, dtype=np.float32), patients),
        "class_names": np.asarray(["below", "above"]),
    }


def measure(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The rows of a table of patients: {"rows": {name: accuracy}, "patients": what adapting does to
    them}."""
    config = check(
        TrainConfig(
            data=str(path), task="patient", image_size=given.size, shots=given.shots,
            queries=QUERIES, algorithm=given.algorithm, net={"width": given.width},
            norm=given.norm, augment=(), meta_steps=given.meta_steps,
            validate_every=max(1, given.meta_steps // 4), val_episodes=40,
            test_episodes=given.episodes, seed=given.seed,
        )
    )  # fmt: skip
    made = verbs.build(config)
    step = running.compile_step(made, made.training).step
    params = running.fit_quietly(made, step, inner_steps=config.hyper.get("steps")).best_params
    task = running.task_of(made)
    groups = baselines.query_groups(task)
    rows, means = {}, {}
    for row in running.judge(made, params):
        rows[row.learner] = row.scores.estimate("accuracy")._asdict()
        say(f"{row.learner}: {console.percent(rows[row.learner])}")
        if groups is not None:
            means[row.learner] = baselines.patient_means(row.scores, groups)
    return {
        "rows": rows,
        "patients": by_patient(means),
        **report.episodes_of(running.facts(made, task)),
    }


def table(found: dict[str, Any], algorithm: str, norm: str) -> str:
    """A row a spread: the bounds, the models, and the share of the gap that adapting closes."""
    names = (algorithm, f"{algorithm}-careful", baselines.GLOBAL)
    lines = [
        f"| s | one model, at best | ideal reader | {' | '.join(names)} | gap closed "
        "| made worse |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for spread, of in found.items():
        low, high = of["one_model"], of["ideal_reader"]
        own = of["rows"][algorithm]["mean"]
        closed = f"{100 * (own - low) / (high - low):.0f}%" if high > low + 1e-9 else "-"
        cells = " | ".join(console.percent(of["rows"][name]) for name in names)
        worse = of["patients"]["rows"][algorithm]["made_worse"]
        lines.append(
            f"| {spread} | {100 * low:.1f} | {100 * high:.1f} | {cells} | {closed} "
            f"| {100 * worse:.0f}% |"
        )
    told = [f"s = {spread}: {report.which(of)}" for spread, of in found.items()]
    if norm == "support":
        told.append(f"{baselines.GLOBAL} has the statistics of the patient's support.")
    return "\n".join([*lines, "", *told])


def main() -> None:
    """Parse, render, train, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m benchmarks.personal_effect"
    )
    parser.add_argument("--spreads", type=float, nargs="+", default=(0.0, 1.0), help="s")
    parser.add_argument("--patients", type=int, default=240)
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--shots", type=int, default=5, help="of either label")
    parser.add_argument("--algorithm", default="maml", help="one with inner steps")
    parser.add_argument("--norm", choices=("group", "support"), default="group")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--meta-steps", type=int, default=600)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    verbs.enable_compilation_cache()
    verbs.use_devices(TrainConfig())
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for spread in given.spreads:
            path = Path(folder) / f"spread-{spread}.npz"
            np.savez(path, **render(given.patients, spread, given.size, given.seed))  # type: ignore[arg-type]
            say(f"s = {spread}")
            found[str(spread)] = {
                "one_model": one_model(spread),
                "ideal_reader": ideal_reader(spread, given.shots),
                **measure(path, given),
            }
    print(json.dumps(found) if given.json else table(found, given.algorithm, given.norm))


if __name__ == "__main__":
    main()
