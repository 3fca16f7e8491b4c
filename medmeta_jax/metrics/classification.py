"""Scores of predicted classes: an episode's accuracy, macro recall and macro F1; which class of
the pool was taken for which; agreement on grades."""

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


def pool_confusion(table: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Counts [count (true), count (predicted)] over the pool's classes, of all episodes together.

    table: [E, ways, ways], as `confusion` gives it; classes: [E, ways], each way's class among
    `count`, -1 where absent; what is taken for an absent way is left out.

    >>> pool_confusion(np.array([[[2, 0], [1, 1]]]), np.array([[2, 0]]), 3)
    array([[1, 0, 1],
           [0, 0, 0],
           [0, 0, 2]])
    """
    found = np.zeros((count, count), np.int64)
    true = np.broadcast_to(classes[:, :, None], table.shape)
    predicted = np.broadcast_to(classes[:, None, :], table.shape)
    counted = (table > 0) & (predicted >= 0)
    np.add.at(found, (true[counted], predicted[counted]), table[counted])
    return found


def quadratic_kappa(table: np.ndarray) -> float:
    """Cohen's kappa weighted by the square of how far off a grade is (Cohen 1968): 1 - what
    is off / what would be by chance, from counts [grades (true), grades (predicted)].

    1 where all are right, 0 where chance does as well, below 0 where it does better; NaN where
    only one grade occurs.

    >>> quadratic_kappa(np.diag([3, 4, 5])), quadratic_kappa(np.ones((2, 2)))
    (1.0, 0.0)
    """
    grades, total = np.arange(len(table)), table.sum()
    off = (grades[:, None] - grades) ** 2
    by_chance = np.outer(table.sum(1), table.sum(0)) / total
    expected = float((off * by_chance).sum())
    return 1 - float((off * table).sum()) / expected if expected else float("nan")
