"""Pictures of what a run learned from and how it was judged: the first images of each class, and
some meta-test episodes, from the worst to the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.baselines import places_of
from medmeta_jax.data.samples import picture_of, to_channels
from medmeta_jax.data.splits import SIDES, Split
from medmeta_jax.evaluation import Scores
from medmeta_jax.experiment import Experiment
from medmeta_jax.labels import CLASSES, GRADES, guesses
from medmeta_jax.overlays import TOLD, TRUTH

TILE, GAP, CAPTION = 44, 3, 150  # pixels
A_CLASS, CLASSES_SHOWN = 10, 12  # images of a class, and classes of a side
EPISODES, SUPPORT, QUERIES = 4, 5, 10  # shown, and images of each way


class Tile(NamedTuple):
    """A picture [H, W, C] uint8; the colour of its frame, and a word on it."""

    picture: np.ndarray
    frame: tuple[int, int, int] | None = None
    word: str = ""


class Line(NamedTuple):
    """A caption, and the tiles right of it, None where there is a gap; bold begins a part."""

    caption: str
    tiles: Sequence[Tile | None] = ()
    colour: str | tuple[int, int, int] = "black"


def page(lines: Sequence[Line]) -> Any:
    """The lines below one another, as a Pillow image."""
    from PIL import Image, ImageDraw

    side = TILE + GAP
    most = max(len(line.tiles) for line in lines)
    heights = [side if line.tiles else CAPTION // 8 for line in lines]
    made = Image.new("RGB", (CAPTION + most * side + GAP, sum(heights) + GAP), "white")
    draw, top = ImageDraw.Draw(made), GAP
    for line, height in zip(lines, heights, strict=True):
        words = line.caption if not line.tiles else line.caption[:23]
        draw.text((GAP, top + (TILE // 3 if line.tiles else 2)), words, fill=line.colour)
        for place, tile in enumerate(line.tiles):
            if tile is not None:
                paste(made, draw, tile, (CAPTION + place * side, top))
        top += height
    return made


def paste(made: Any, draw: Any, tile: Tile, at: tuple[int, int]) -> None:
    """Put a tile into an image, at its upper left corner."""
    from PIL import Image, ImageOps

    picture = picture_of(tile.picture)
    picture = to_channels(picture if picture.shape[-1] in (1, 3) else picture[..., :1], 3)
    small = max(picture.shape[:2]) <= TILE
    how = Image.Resampling.NEAREST if small else Image.Resampling.BILINEAR
    made.paste(ImageOps.pad(Image.fromarray(picture), (TILE, TILE), how), at)
    left, top = at
    if tile.frame:
        draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), outline=tile.frame, width=3)
    if tile.word:
        draw.rectangle((left + 3, top + 3, left + 11, top + 14), fill="white")
        draw.text((left + 4, top + 2), tile.word, fill=tile.frame)


def of_data(split: Split) -> Any | None:
    """The first images of the first classes of each side; None where no side has its images in
    memory."""
    lines: list[Line] = []
    for side in SIDES:
        if side in split.stored:
            continue
        pool, names = split.pools[side], split.classes[side]
        lines.append(Line(f"meta-{side}: {len(names)} classes, {len(pool.same)} images"))
        rows = np.asarray(pool.rows)[:CLASSES_SHOWN, :A_CLASS]
        for name, row in zip(names, rows, strict=False):
            images = np.asarray(pool.x[row[row >= 0]])
            lines.append(Line(name, [Tile(image) for image in images]))
    return page(lines) if lines else None


def of_episodes(experiment: Experiment, scores: Scores) -> Any | None:
    """Some meta-test episodes, by the learner's score at even steps from the worst to the best:
    supports, and queries framed by whether they were told right. None where labels are no classes,
    or images stay in their files."""
    split, predictions = experiment.split, scores.predictions
    if experiment.kind not in (CLASSES, GRADES) or "test" in split.stored:
        return None
    places, pool = places_of(experiment.test, experiment.spec), split.pools["test"]
    names = dict(zip(np.asarray(pool.labels).tolist(), split.classes["test"], strict=True))
    guess = guesses(predictions.logits, predictions.y)
    order = np.argsort(scores.main, kind="stable")
    count = min(EPISODES, len(order))
    most = min(SUPPORT, highest_shots(places))
    lines = [
        Line("left: support; right: queries, framed where they were told"),
        Line("right", colour=TRUTH),
        Line("wrong, with the number of the class that they were taken for", colour=TOLD),
    ]
    for episode in order[np.linspace(0, len(order) - 1, count).round().astype(int)]:
        lines.append(Line(f"episode {episode}: {100 * scores.main[episode]:.0f}% right"))
        for way, label in enumerate(predictions.classes[episode].tolist()):
            if label < 0:
                continue
            given = of_way(places.support, places.support_y, episode, way)[:SUPPORT]
            asked = of_way(places.query, places.query_y, episode, way)[:QUERIES]
            tiles: list[Tile | None] = [
                Tile(np.asarray(pool.x[np.asarray(places.support)[episode, slot]]))
                for slot in given
            ]
            tiles += [None] * (most - len(given) + 1)
            for slot in asked:
                told = int(guess[episode, slot])
                picture = np.asarray(pool.x[np.asarray(places.query)[episode, slot]])
                right = told == way
                tiles.append(
                    Tile(picture, TRUTH if right else TOLD, "" if right else f"{told + 1}")
                )
            lines.append(Line(f"{way + 1} {names[label]}", tiles))
    return page(lines)


def highest_shots(places: Any) -> int:
    """The most supports that a way of an episode has."""
    each = np.asarray(places.support).reshape(*np.shape(places.classes), -1)
    return int((each >= 0).sum(-1).max())


def of_way(index: Any, ways: Any, episode: int, way: int) -> np.ndarray:
    """The slots of an episode that hold an image of a way."""
    held = np.asarray(index)[episode] >= 0
    return np.flatnonzero(held & (np.asarray(ways)[episode] == way))
