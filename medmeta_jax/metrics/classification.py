"""Scores of predicted classes, one value an episode: accuracy, macro recall, macro F1."""

from __future__ import annotations

import numpy as np


def confusion(predicted: np.ndarray, y: np.ndarray, mask: np.ndarray, ways: int) -> np.ndarray:
    """Counts [E, ways (true), ways (predicted)] from [E, n] arrays; padding is left out."""
    episodes = np.broadcast_to(np.arange(len(y))[:, None], y.shape)
    table = np.zeros((len(y), ways, ways), np.int64)
    np.add.at(table, (episodes[mask], y[mask], predicted[mask]), 1)
    return table


def episode_scores(table: np.ndarray) -> dict[str, np.ndarray]:
    """{"accuracy", "recall", "f1"}, each [E], from a confusion table [E, ways, ways].

    Recall and F1 are means over the classes that have a query image in the episode; a
    class that is never predicted has F1 0.

    >>> episode_scores(np.array([[[2, 0], [1, 1]]]))["recall"]
    array([0.75])
    """
    hits = np.diagonal(table, axis1=1, axis2=2).astype(np.float64)
    true, predicted = table.sum(2), table.sum(1)
    present = true > 0
    if not present.any(1).all():
        raise ValueError("an episode has no query images")
    recall = hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    n_classes = present.sum(1)
    return {
        "accuracy": hits.sum(1) / true.sum(1),
        "recall": np.where(present, recall, 0).sum(1) / n_classes,
        "f1": np.where(present, f1, 0).sum(1) / n_classes,
    }
