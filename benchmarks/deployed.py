"""A run put to use as a clinic would: `python -m benchmarks.deployed RUN --data FOLDER`.

Of class folders that the run has not seen, some images of each class are drawn as the support and
all others are told, through `medmeta adapt` and `medmeta predict` and the table that it writes; so
many times with another draw. Beside it stands the nearest class mean of the pixels of the same
supports. Sets are those of the run's calibration, which promises nothing on other classes: how
often they hold the truth is measured. The interval is over draws, which share most of their images.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import say
from medmeta_jax import cli, config as configs, runs
from medmeta_jax.console import percent
from medmeta_jax.data.folder import list_files
from medmeta_jax.data.samples import fit_image, read_image, to_channels
from medmeta_jax.metrics.classification import confusion, episode_scores
from medmeta_jax.metrics.intervals import over_episodes, paired_difference

SCORES = ("accuracy", "recall", "f1")


def drawn(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Which images [N] are of the support: so many of each class, at random."""
    rng, found = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        found[rng.choice(np.flatnonzero(labels == label), shots, replace=False)] = True
    return found


def scored(guess: np.ndarray, truth: np.ndarray, ways: int) -> dict[str, float]:
    """Accuracy, macro recall and macro F1 of guesses [n]."""
    counts = confusion(guess[None], truth[None], np.ones((1, len(truth)), bool), ways)
    return {name: float(values[0]) for name, values in episode_scores(counts).items()}


def through_the_command_line(
    run: str, files: list[Path], labels: list[str], support: np.ndarray, where: Path
) -> list[dict[str, str]]:
    """The rows of the table that `medmeta predict` writes, after `medmeta adapt`."""
    for place, (file, label) in enumerate(zip(files, labels, strict=True)):
        folder = where / "support" / label if support[place] else where / "others"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{place:06}{file.suffix}").symlink_to(file.absolute())
    task, table = str(where / "clinic.task"), where / "told.csv"
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        cli.main(["adapt", run, "--support", str(where / "support"), "--out", task])
        cli.main(["predict", task, "--images", str(where / "others"), "--out", str(table)])
    with table.open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every draw's scores, and of the sets how often they hold the truth, and how many classes."""
    files, labels, _ = list_files(Path(given.data))
    names, truth = np.unique(labels, return_inverse=True)
    size = configs.load(None, str(runs.existing(given.run).config)).image_size
    pixels = np.stack([to_channels(fit_image(read_image(f), size), 1) for f in files])
    pixels = pixels.reshape(len(files), -1).astype(np.float32)
    draws = []
    for seed in range(given.draws):
        support = drawn(truth, given.shots, seed)
        with tempfile.TemporaryDirectory() as folder:
            rows = through_the_command_line(given.run, files, labels, support, Path(folder))
        asked = np.asarray([int(row["image"].split(".")[0]) for row in rows])
        guess = np.asarray([int(np.flatnonzero(names == row["class"])[0]) for row in rows])
        sets = [row["set"].split("|") for row in rows]
        means = np.stack([pixels[support & (truth == k)].mean(0) for k in range(len(names))])
        near = ((pixels[asked, None] - means) ** 2).sum(-1).argmin(1)
        own = scored(guess, truth[asked], len(names))
        draws.append(
            {
                "run": own,
                "raw_centroid": scored(near, truth[asked], len(names)),
                "covered": float(
                    np.mean([names[t] in s for t, s in zip(truth[asked], sets, strict=True)])
                ),
                "set_size": float(np.mean([len([n for n in s if n]) for s in sets])),
                "told": len(rows),
            }
        )
        say(f"draw {seed}: {100 * own['accuracy']:.1f}")
    return {"classes": names.tolist(), "shots": given.shots, "draws": draws}


def table(found: dict[str, Any]) -> str:
    """A row for the run and one for the pixels, with the difference of their accuracy."""
    draws = found["draws"]
    by = {
        row: {name: np.asarray([one[row][name] for one in draws]) for name in SCORES}
        for row in ("run", "raw_centroid")
    }
    lines = ["| | accuracy | recall | F1 | minus raw_centroid |", "|---|---|---|---|---|"]
    for row, scores in by.items():
        gap = paired_difference(scores["accuracy"], by["raw_centroid"]["accuracy"])._asdict()
        versus = percent(gap, sign=True) if row == "run" else ""
        cells = [percent(over_episodes(scores[name])._asdict()) for name in SCORES]
        lines.append(f"| {row} | {' | '.join(cells)} | {versus} |")
    covered, size = (np.mean([one[name] for one in draws]) for name in ("covered", "set_size"))
    lines += [
        "",
        f"{len(found['classes'])} classes, {found['shots']} images of each to adapt to, "
        f"{draws[0]['told']} others told, {len(draws)} draws; sets hold the truth "
        f"{100 * covered:.1f}% of the time with {size:.1f} classes.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse, adapt and predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.deployed")
    parser.add_argument("run", help="a run directory, of classes")
    parser.add_argument("--data", required=True, help="class folders that it has not seen")
    parser.add_argument("--shots", type=int, default=5, help="images of a class to adapt to")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    found = measure(given)
    print(json.dumps(found) if given.json else table(found))


if __name__ == "__main__":
    main()
