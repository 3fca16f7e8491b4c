"""Image and gene together: `python -m benchmarks.drug_response`.

Patients of the phantom (simulated lesions on real average anatomy) have one image each and the
value of a gene. To each of many drugs they respond by

    r = a u + b g + c u g + noise,   u the lesion's area, g the gene, both standardised

with a, b, c of each drug at random, and noise of which no model can know: R² is at best what is
given in the table. A task is a drug: its response is known of a few patients, and asked of others.
Some drugs are held out, and so are patients. The learner that has the image and the gene stands
beside the one that has the image alone, and beside a ridge regression on u, g and u g themselves,
which knows the form of the answer.

The network is a small ResNet, whose features are means over the image: an area is a sum over
places, of which Conv4 keeps the places.

The planted interaction is recovered where a regression of the learner's *predictions* on u, g and
u g has the c that was planted: its correlation with the planted one over tasks is given. All of it
is simulated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import report
from benchmarks.machine import say
from medmeta_jax import baselines, console, running, verbs
from medmeta_jax.config import check
from medmeta_jax.data import sources
from medmeta_jax.metrics.intervals import over_episodes
from medmeta_jax.settings import TrainConfig

NOISE = 0.3  # of a response of spread 1
SIXTHS = 6


class Trial(NamedTuple):
    """Patients [P], and drugs [D] by their three numbers.

    images: [P, S, S] uint8. area, gene: [P], standardised. effects: [D, 3]. response: [P, D].
    """

    images: np.ndarray
    area: np.ndarray
    gene: np.ndarray
    effects: np.ndarray
    response: np.ndarray


def terms(area: np.ndarray, gene: np.ndarray) -> np.ndarray:
    """u, g and u g of patients: [P, 3]."""
    return np.stack([area, gene, area * gene], -1)


def responses(
    area: np.ndarray, gene: np.ndarray, drugs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(effects [drugs, 3], response [P, drugs] of spread about 1)."""
    effects = rng.normal(size=(drugs, 3))
    effects *= np.sqrt(1 - NOISE**2) / np.linalg.norm(effects, axis=1, keepdims=True)
    return effects, terms(area, gene) @ effects.T + NOISE * rng.normal(size=(len(area), drugs))


def draw(patients: int, drugs: int, size: int, seed: int) -> Trial:
    """Patients with a lesion of one of four types, whose size varies, and drugs."""
    options = {
        "patients": patients, "size": size, "types": 4, "modality": "flair", "d_prime": 60.0,
        "seed": seed,
    }  # fmt: skip
    samples = sources.load("phantom", image_size=size, masks=True, read=options)
    area = np.sqrt((np.asarray(samples.masks) > 0).sum((1, 2)).astype(np.float64))
    area = (area - area.mean()) / area.std()
    rng = np.random.default_rng(seed)
    gene = rng.normal(size=patients)
    effects, response = responses(area, gene, drugs, rng)
    return Trial(np.asarray(samples.images)[..., 0], area, gene, effects, response)


def write(trial: Trial, folder: Path) -> tuple[Path, Path]:
    """An archive of images and responses, and the table of genes."""
    names = [f"p{place:05d}" for place in range(len(trial.area))]
    drugs = [f"drug{place:03d}" for place in range(trial.response.shape[1])]
    data, table = folder / "trial.npz", folder / "genes.csv"
    np.savez(
        data, images=trial.images, values=trial.response.astype(np.float32),
        value_names=np.asarray(drugs), groups=np.asarray(names),
    )  # fmt: skip
    lines = [f"{name},{value:.6f}" for name, value in zip(names, trial.gene, strict=True)]
    table.write_text("\n".join(["group,gene", *lines]) + "\n", encoding="utf-8")
    return data, table


def ridge(x: np.ndarray, y: np.ndarray, asked: np.ndarray, decay: float = 0.3) -> np.ndarray:
    """Predictions at `asked` [q, 3] of a ridge regression of y [n] on x [n, 3] about the means."""
    middle, level = x.mean(0), y.mean()
    centred = x - middle
    weights = np.linalg.solve(centred.T @ centred + decay * np.eye(3), centred.T @ (y - level))
    return level + (asked - middle) @ weights


def interaction(x: np.ndarray, told: np.ndarray) -> float:
    """The weight of u g in a regression of predictions [q] on u, g, u g [q, 3] and a constant."""
    design = np.concatenate([x, np.ones((len(x), 1))], 1)
    return float(np.linalg.lstsq(design, told, rcond=None)[0][2])


def measure(config: TrainConfig, trial: Trial) -> dict[str, Any]:
    """The learner's R², and how its predictions' interaction goes with the planted one; those of a
    ridge regression that has the terms, of the same episodes."""
    made = verbs.build(config)
    step = running.compile_step(made, made.training).step
    params = running.fit_quietly(made, step, inner_steps=config.hyper.get("steps")).best_params
    task = running.task_of(made)
    row = next(baselines.rows(task, made.learner, params, params))
    places = baselines.places_of(made.test, made.spec)
    # Patients are dealt out in the order of their names, every sixth to meta-test, one image each.
    patients = np.arange(SIXTHS - 1, len(trial.area), SIXTHS)
    x, drugs = terms(trial.area, trial.gene)[patients], row.scores.predictions.classes[:, 0]
    support, query = (np.asarray(part) for part in (places.support, places.query))
    logits = row.scores.predictions.logits[..., 0]
    own, known, by_ridge = [], [], []
    for episode, drug in enumerate(drugs):
        own.append(interaction(x[query[episode]], logits[episode]))
        known.append(trial.effects[drug, 2])
        response = trial.response[patients, drug]
        told = ridge(x[support[episode]], response[support[episode]], x[query[episode]])
        truth = response[query[episode]]
        by_ridge.append(1 - ((told - truth) ** 2).mean() / response.var())
    return {
        "r2": row.scores.estimate("r2")._asdict(),
        "ridge": over_episodes(np.asarray(by_ridge))._asdict(),
        "recovered": float(np.corrcoef(own, known)[0, 1]),
        "drugs": len(np.unique(drugs)),
        **report.episodes_of(running.facts(made, task)),
    }


def table(found: dict[str, Any]) -> str:
    """A row a model."""
    first = next(iter(found.values()))
    lines = [
        "| model | R² | interaction: predicted against planted |", "|---|---|---|",
        *(
            f"| {name} | {console.percent(of['r2'])} | correlation {of['recovered']:.2f} |"
            for name, of in found.items()
        ),
        f"| ridge on u, g, u g | {console.percent(first['ridge'])} | - |",
        "", f"At best {100 * (1 - NOISE**2):.0f}; {first['drugs']} drugs held out. "
        f"{report.which(first)}",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Parse, draw, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.drug_response")
    parser.add_argument("--patients", type=int, default=1200)
    parser.add_argument("--drugs", type=int, default=60)
    parser.add_argument("--size", type=int, default=24, help="pixels a side")
    parser.add_argument("--shots", type=int, default=20)
    parser.add_argument("--algorithm", default="r2d2")
    parser.add_argument("--widths", type=int, nargs="+", default=(16, 32), help="of ResNet blocks")
    parser.add_argument("--meta-steps", type=int, default=1500)
    parser.add_argument("--outer-lr", type=float, default=0.01)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    verbs.enable_compilation_cache()
    verbs.use_devices(TrainConfig())
    say("drawing patients")
    trial = draw(given.patients, given.drugs, given.size, given.seed)
    names = tuple(f"drug{place:03d}" for place in range(given.drugs))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        data, genes = write(trial, Path(folder))
        config = check(
            TrainConfig(
                data=str(data), val_classes=names[4::SIXTHS], test_classes=names[5::SIXTHS],
                image_size=given.size, shots=given.shots, algorithm=given.algorithm,
                backbone="resnet12", net={"widths": tuple(given.widths)}, augment=(),
                meta_steps=given.meta_steps, outer_lr=given.outer_lr,
                validate_every=max(1, given.meta_steps // 4), val_episodes=100,
                test_episodes=given.episodes, baselines="none", seed=given.seed,
            )
        )  # fmt: skip
        for name, table_of in (("image and gene", str(genes)), ("image alone", None)):
            say(name)
            found[name] = measure(dataclasses.replace(config, covariates=table_of), trial)
            say(f"R² {console.percent(found[name]['r2'])}")
    print(json.dumps(found) if given.json else table(found))


if __name__ == "__main__":
    main()
