"""From the protocol's records to results: means over seeds, paired differences, tables, a plot.

A result's interval is over the episodes, of each episode's mean over the training seeds; the
spread over seeds stands beside it. Differences are paired by episode, and their p-values
corrected (Holm) for the number of methods compared at a shot.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmeta_jax.console import heading, percent
from medmeta_jax.metrics.comparison import holm, paired_p
from medmeta_jax.metrics.intervals import over_episodes, paired_difference

Record = Mapping[str, Any]


def of_method(records: Sequence[Record], method: str) -> list[Record]:
    """A method's records, by seed."""
    return sorted((r for r in records if r["method"] == method), key=lambda r: int(r["seed"]))


def values(records: Sequence[Record], shots: int, score: str) -> np.ndarray:
    """[seeds, episodes]."""
    return np.asarray([r["shots"][str(shots)]["scores"][score] for r in records])


def result(records: Sequence[Record], facts: Mapping[str, Any], shots: int) -> dict[str, Any]:
    """A method at a number of shots, in the row format of `summary.json`."""
    columns = facts["columns"]
    by_seed = values(records, shots, columns[0]).mean(1)
    found = {
        "learner": records[0]["method"],
        **facts,
        "shots": shots,
        "norm": records[0]["norm"],
        **{
            name: over_episodes(values(records, shots, name).mean(0))._asdict()
            for name in records[0]["shots"][str(shots)]["scores"]
        },
        f"{columns[0]}_over_classes": records[0]["shots"][str(shots)]["over_classes"],
        f"{columns[0]}_over_subjects": records[0]["shots"][str(shots)].get("over_subjects"),
        "pooled": pooled([r["shots"][str(shots)]["pooled"] for r in records]),
        "seeds": {
            "count": len(records),
            columns[0]: by_seed.tolist(),
            "sd": float(by_seed.std(ddof=1)) if len(records) > 1 else None,
        },
        "chosen": [r["shots"][str(shots)]["chosen"] for r in records],
        "seconds": [r["seconds"] for r in records],
    }
    return found


def pooled(by_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pooled scores as means over seeds, and so their intervals, which are of the same episodes."""
    return {
        name: {part: float(np.mean([one[name][part] for one in by_seed])) for part in of}
        for name, of in by_seed[0].items()
    }


def results(
    records: Sequence[Record], facts: Mapping[str, Any], shots: Sequence[int], reference: str
) -> list[dict[str, Any]]:
    """Every method at every shot: the reference first, then the best first."""
    names, main = dict.fromkeys(r["method"] for r in records), facts["columns"][0]
    found: list[dict[str, Any]] = []
    for count in shots:
        of = {name: of_method(records, name) for name in names}
        rows = {name: result(of[name], facts, count) for name in names}
        if reference in names:
            against = values(of[reference], count, main).mean(0)
            others = [name for name in names if name != reference]
            means = {name: values(of[name], count, main).mean(0) for name in others}
            adjusted = holm([paired_p(means[name], against) for name in others])
            for name, p in zip(others, adjusted, strict=True):
                gap = paired_difference(means[name], against)._asdict()
                rows[name] |= {f"minus_{reference}": gap, "p_holm": p}
        found += sorted(rows.values(), key=lambda r: (r["learner"] != reference, -r[main]["mean"]))
    return found


def gap_of(row: Mapping[str, Any]) -> Mapping[str, float] | None:
    """A result's paired difference from the reference."""
    return next((row[key] for key in row if key.startswith("minus_")), None)


def markdown(found: Sequence[Mapping[str, Any]], reference: str) -> str:
    """A table a number of shots."""
    lines: list[str] = []
    for shots in dict.fromkeys(row["shots"] for row in found):
        rows = [row for row in found if row["shots"] == shots]
        ways, main = rows[0]["ways"], rows[0]["columns"][0]
        lines += [
            f"{ways}-way {shots}-shot, {rows[0]['episodes']} episodes {rows[0]['episodes_hash']}, "
            f"training seeds: {rows[0]['seeds']['count']}",
            "",
            f"| learner | {heading(main)} | sd over seeds | minus {reference} | p (Holm) | norm |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            gap, sd = gap_of(row), row["seeds"]["sd"]
            versus = percent(gap, sign=True) if gap else ""
            spread = "-" if sd is None else f"{100 * sd:.1f}"
            p = f"{row['p_holm']:.2g}" if gap else ""
            lines.append(
                f"| {row['learner']} | {percent(row[main])} | {spread} "
                f"| {versus} | {p} | {row['norm']} |"
            )
        lines.append("")
    lines.append(
        "Per cent; mean ± 95% interval over episodes, of each episode's mean over seeds; "
        f"differences paired. Data: {found[0]['data']}."
    )
    return "\n".join(lines)


def as_csv(found: Sequence[Mapping[str, Any]], reference: str) -> str:
    """One line a method and number of shots."""
    out = io.StringIO()
    main, *others = found[0]["columns"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["learner", "ways", "shots", main, f"{main}_ci95", *others, "seeds",
         "sd_over_seeds", f"minus_{reference}", f"minus_{reference}_ci95", "p_holm", "norm",
         "episodes", "episodes_hash"]
    )  # fmt: skip
    for row in found:
        gap: Mapping[str, Any] = gap_of(row) or {}
        further = (row[name]["mean"] if name in row else None for name in others)
        writer.writerow(
            [row["learner"], row["ways"], row["shots"], row[main]["mean"], row[main]["ci95"],
             *further, row["seeds"]["count"], row["seeds"]["sd"], gap.get("mean"),
             gap.get("ci95"), row.get("p_holm"), row["norm"], row["episodes"],
             row["episodes_hash"]]
        )  # fmt: skip
    return out.getvalue()


def plot(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Scores against shots, a panel for the ten best and one for the rest. Needs matplotlib."""
    from matplotlib.figure import Figure

    shots, main = list(dict.fromkeys(row["shots"] for row in found)), found[0]["columns"][0]
    last = [row for row in found if row["shots"] == shots[-1]]
    ranked = [r["learner"] for r in sorted(last, key=lambda r: -r[main]["mean"])]
    panels = [ranked[:10], ranked[10:]] if len(ranked) > 10 else [ranked]
    figure = Figure(figsize=(5.2 * len(panels), 4.2))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000")
    for ax, names in zip(axes, panels, strict=True):
        for i, name in enumerate(names):
            rows = [row for row in found if row["learner"] == name]
            ax.errorbar(
                [row["shots"] for row in rows],
                [100 * row[main]["mean"] for row in rows],
                [100 * row[main]["ci95"] for row in rows],
                color=colours[i % 5], linestyle="-" if i < 5 else "--", marker="os^Dv"[i % 5],
                markersize=4, markerfacecolor=None if i < 5 else "white", label=name,
            )  # fmt: skip
        ax.set_xscale("log")
        ax.set_xticks(shots, [str(count) for count in shots])
        ax.minorticks_off()
        ax.set_xlabel("support images a class")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=7, handlelength=4)
    axes[0].set_ylabel(f"{heading(main)}, per cent, with 95% intervals")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
