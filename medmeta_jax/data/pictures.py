"""Pictures of a data set: a contact sheet and a histogram of intensities. Need matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medmeta_jax.data.samples import fit_image, picture_of, to_channels
from medmeta_jax.data.survey import Look

THUMBNAIL = 72  # pixels a side
A_CLASS, CLASSES = 8, 24  # images of a class, classes on a sheet


class ContactSheet:
    """The first images of each of the first classes, kept small as they come by."""

    def __init__(self) -> None:
        self.kept: dict[str, list[np.ndarray]] = {}

    def add(self, look: Look, image: np.ndarray) -> None:
        """Keep an image, or a volume's middle slice, where its class still has room."""
        for label in look.labels or ("(none)",):
            if label not in self.kept and len(self.kept) >= CLASSES:
                continue
            row = self.kept.setdefault(label, [])
            if len(row) < A_CLASS:
                row.append(to_channels(fit_image(picture_of(image), THUMBNAIL), 3))

    def save(self, path: Path) -> None:
        """A row a class, by name, as PNG."""
        from matplotlib.figure import Figure

        rows = sorted(self.kept.items())
        figure = Figure(figsize=(1.6 + 0.8 * A_CLASS, 0.3 + 0.82 * len(rows)))
        axes = figure.subplots(len(rows), A_CLASS, squeeze=False)
        for (label, images), line in zip(rows, axes, strict=True):
            for place, ax in enumerate(line):
                ax.axis("off")
                if place < len(images):
                    ax.imshow(images[place], interpolation="nearest")
            line[0].text(
                -0.12, 0.5, label[:28], transform=line[0].transAxes, ha="right", va="center",
                fontsize=8,
            )  # fmt: skip
        figure.subplots_adjust(0.24, 0.01, 0.995, 0.99, 0.04, 0.04)
        figure.savefig(path, dpi=110)


def save_histogram(looks: Sequence[Look], path: Path) -> None:
    """Shares of the pixel values, a line a modality where they are known, as PNG."""
    from matplotlib.figure import Figure

    by_modality: dict[str, np.ndarray] = {}
    for look in looks:
        name = look.modality or "all images"
        by_modality[name] = by_modality.get(name, np.zeros(256)) + look.histogram
    figure = Figure(figsize=(6, 3.2))
    ax = figure.subplots()
    draw_histograms(ax, by_modality)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def draw_histograms(ax, by_modality: Mapping[str, np.ndarray]) -> None:  # type: ignore[no-untyped-def]
    """Lines told apart in grey too; the tall peak of black background is cut off."""
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000")
    styles = ("-", "--", ":", "-.")
    for i, (name, counts) in enumerate(sorted(by_modality.items())):
        share = counts / counts.sum()
        ax.plot(share, color=colours[i % 5], linestyle=styles[i % 4], label=name, linewidth=1.2)
    inner = [np.sort(counts / counts.sum())[-2] for counts in by_modality.values()]
    ax.set_ylim(0, 1.15 * max(inner) or 1)
    ax.set_xlim(0, 255)
    ax.set_xlabel("pixel value (the highest peak may be cut off)")
    ax.set_ylabel("share of pixels")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
