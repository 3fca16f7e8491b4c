"""What a learner marks, to be looked at: some queries with their truth and prediction, as PNG.

Queries are taken at even steps from the worst Dice to the best, over all episodes together, so
that the picture shows what the mean is made of and not what looks well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmeta_jax.data.pool import Scaling
from medmeta_jax.data.samples import to_channels
from medmeta_jax.evaluation import FixedEpisodes, Predictions, sample_key
from medmeta_jax.labels import each_mask, marked

COUNT, A_ROW = 12, 3  # queries of a picture, and of a row
TILE, GAP, CAPTION = 132, 3, 18  # pixels
TRUTH, TOLD = (0, 158, 115), (213, 94, 0)  # told apart by colour-blind eyes, and in grey


class Shown(NamedTuple):
    """One query: image [H, W, 1 or 3] uint8, truth and told [H, W] bool, its Dice, its structure's
    name."""

    image: np.ndarray
    truth: np.ndarray
    told: np.ndarray
    dice: float
    structure: str


def from_worst_to_best(predictions: Predictions, count: int) -> list[tuple[int, int, float]]:
    """The place (episode, query) and the Dice of so many queries, at even steps, the worst first.

    >>> y = np.ones((1, 3, 2, 2), np.int32)
    >>> logits = np.stack([0 * y, np.asarray([1, -1, 1]).reshape(1, 3, 1, 1) * y], -1)
    >>> told = Predictions(logits, y, np.ones((1, 3), bool), np.zeros((1, 1), np.int32))
    >>> from_worst_to_best(told, 2)
    [(0, 1, 0.0), (0, 2, 1.0)]
    """
    each, places = each_mask(*predictions)[0], np.argwhere(predictions.mask)
    order = np.argsort(each, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]
    return [(*places[one].tolist(), float(each[one])) for one in chosen]


def look_up(
    episodes: FixedEpisodes,
    predictions: Predictions,
    names: Mapping[int, str],
    scaling: Scaling,
    *,
    count: int = COUNT,
) -> list[Shown]:
    """Some queries of a list of episodes, with what was predicted of them.

    Args:
      names: of structures, by their label.
      scaling: of the images, which is undone.
      count: how many, at most.

    Of a volume, the slice that shows most of the structure; of several modalities, the first that
    is there.
    """
    found = []
    for episode, query, score in from_worst_to_best(predictions, count):
        drawn = episodes.sampler(sample_key(episodes.keys[episode]), episodes.pool)
        channels = len(scaling.scale)  # what is beyond are covariates
        grey = np.asarray(drawn.query.x[query])[..., :channels] / scaling.scale + scaling.shift
        image = (255 * grey).round().clip(0, 255)
        if image.shape[-1] not in (1, 3) or np.isnan(image).any():  # several modalities
            first = int(np.flatnonzero(~np.isnan(image).any(tuple(range(image.ndim - 1))))[0])
            image = image[..., first : first + 1]
        image = image.astype(np.uint8)
        truth = predictions.y[episode, query] > 0
        told = marked(predictions.logits[episode, query])
        if truth.ndim == 3:
            best = int(truth.sum((1, 2)).argmax())
            image, truth, told = image[best], truth[best], told[best]
        shown = max(int(predictions.y[episode, query].max()), 1)  # of lesions, which type
        structure = names[int(predictions.classes[episode, shown - 1])] if truth.any() else "none"
        found.append(Shown(image, truth, told, score, structure))
    return found


def tinted(image: np.ndarray, where: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """An RGB image [H, W, 3] with a region's inside tinted and its border drawn."""
    from scipy.ndimage import binary_erosion

    found = image.astype(np.float32)
    found[where] = 0.65 * found[where] + 0.35 * np.asarray(colour, np.float32)
    found[where & ~binary_erosion(where)] = colour
    return found.round().astype(np.uint8)


class Entry(NamedTuple):
    """A caption, and the pictures [H, W, 3] uint8 below it, of one size."""

    caption: str
    tiles: Sequence[np.ndarray]


def sheet(entries: Sequence[Entry], heading: Sequence[tuple[str, Any]]) -> Any:
    """A Pillow image of entries, up to `A_ROW` side by side, below words in their colours."""
    from PIL import Image, ImageDraw

    tiles = max(len(one.tiles) for one in entries)
    width, height = tiles * (TILE + GAP) + 4 * GAP, TILE + CAPTION + 2 * GAP
    across = min(A_ROW, len(entries))
    rows = -(-len(entries) // across)
    page = Image.new("RGB", (across * width + GAP, rows * height + CAPTION), "white")
    draw = ImageDraw.Draw(page)
    along = float(GAP)
    for words, colour in heading:
        draw.text((along, GAP), words, fill=colour)
        along += draw.textlength(words)
    for place, one in enumerate(entries):
        left, top = place % across * width + GAP, CAPTION + place // across * height
        draw.text((left, top), one.caption[: 20 * tiles], fill="black")
        for tile, pixels in enumerate(one.tiles):
            page.paste(in_tile(pixels), (left + tile * (TILE + GAP), top + CAPTION))
    return page


def in_tile(pixels: np.ndarray) -> Any:
    """A picture [H, W, 3] uint8 as one of `TILE` pixels; small ones without blending, since a
    pixel's border is the mask's."""
    from PIL import Image, ImageOps

    smooth = max(pixels.shape[:2]) > TILE
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return ImageOps.pad(Image.fromarray(pixels), (TILE, TILE), how, color="white")


def of_shown(shown: Sequence[Shown]) -> Any:
    """A Pillow image: each query as it is, with its truth, and with what was marked."""
    entries = []
    for one in shown:
        colour = to_channels(one.image, 3)
        tiles = colour, tinted(colour, one.truth, TRUTH), tinted(colour, one.told, TOLD)
        entries.append(Entry(f"Dice {100 * one.dice:.0f}  {one.structure}", tiles))
    heading = (
        ("each: image, ", "black"), ("truth, ", TRUTH), ("prediction ", TOLD),
        ("from the worst Dice to the best", "black"),
    )  # fmt: skip
    return sheet(entries, heading)


def save(page: Any, path: Path) -> None:
    """Write a sheet as PNG; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
