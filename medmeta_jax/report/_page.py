"""One HTML file that needs no other, nor a network: what runs were, and what came of them."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from medmeta_jax.console import heading, percent
from medmeta_jax.report._loaded import Loaded, difference
from medmeta_jax.report._plots import Plot
from medmeta_jax.tables import cells, footnote

SIDES = {"train": "meta-train", "val": "meta-validation", "test": "meta-test"}

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; overflow-wrap: anywhere; }
p, figcaption, summary { max-width: 46rem; } figcaption, .note { color: #555; font-size: .87rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd;
         white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.own td { font-weight: 600; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
pre { overflow-x: auto; background: #f6f6f6; padding: .7rem; font-size: .82rem; }
"""


def page(runs: Sequence[Loaded], plots: Sequence[tuple[Plot, bytes]]) -> str:
    """The report of one run or several, with these plots, as PNG too, in their order."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(runs) > 1:
        parts += section("Side by side", [side_by_side(runs)])
    for run in runs:
        parts += section("Results" if len(runs) == 1 else run.name, results(run))
    for plot, picture in plots:
        parts += section(plot.title, [figure(picture, plot.title, plot.caption)])
    for run in runs:
        suffix = "" if len(runs) == 1 else f", {run.name}"
        parts += section(f"By class{suffix}", by_class(run))
        parts += section(f"Looked at{suffix}", pictures(run))
        parts += section(f"Data{suffix}", data(run))
        parts += section(f"Compute and environment{suffix}", [compute(run), environment(run)])
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def escape(value: Any) -> str:
    """Any text as HTML: names of classes, files and runs are not trusted."""
    return html.escape(str(value))


def section(title: str, parts: Iterable[str]) -> list[str]:
    """A heading and what stands below it; nothing where that is nothing."""
    kept = [part for part in parts if part]
    return [f"<h2>{escape(title)}</h2>", *kept] if kept else []


def table(heads: Sequence[Any], rows: Iterable[Sequence[Any]], own: int | None = 0) -> str:
    """A table whose row `own` is set off."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    lines = []
    for place, row in enumerate(rows):
        mark = ' class="own"' if place == own else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{mark}>{cells}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead>\n<tbody>'
        + "\n".join(lines)
        + "</tbody></table></div>"
    )


def figure(content: bytes, title: str, caption: str) -> str:
    """A PNG, within the page."""
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="{escape(title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def results(run: Loaded) -> list[str]:
    """The run's table, and what its numbers are."""
    heads, *rows = cells(run.summary["results"])
    notes = [f'<p class="note">{escape(line)}</p>' for line in footnote(run.summary).split("\n")]
    return [table(heads, rows), *notes]


def side_by_side(runs: Sequence[Loaded]) -> str:
    """The runs' own rows, and their paired differences from the first."""
    rows = []
    for run in runs:
        gap = None if run is runs[0] else difference(run, runs[0])
        versus = (
            "" if run is runs[0] else "other episodes" if gap is None else percent(gap, sign=True)
        )
        rows.append(
            [run.name, run.first["learner"], f"{heading(run.main)} {percent(run.first[run.main])}",
             versus, run.first["episodes_hash"]]
        )  # fmt: skip
    return table(["run", "learner", "score", f"minus {runs[0].name}", "episodes"], rows)


def by_class(run: Loaded) -> list[str]:
    """Recall, precision and F1 of each class over all episodes; or what each structure, value or
    kind of object came to."""
    names = run.summary["confusion"].get("classes")
    if names:
        counts = np.asarray(run.summary["confusion"]["counts"], float)
        right, of, told = counts.diagonal(), counts.sum(1), counts.sum(0)
        recall, precision = right / np.maximum(of, 1), right / np.maximum(told, 1)
        f1 = 2 * right / np.maximum(of + told, 1)
        cells = [
            [f"{100 * value:.1f}" for value in each]
            for each in zip(recall, precision, f1, strict=True)
        ]
        rows = [[name, int(n), *each] for name, n, each in zip(names, of, cells, strict=True)]
        return [table(["class", "queries", "recall", "precision", "F1"], rows, None)]
    found = run.summary["structures"] or run.summary["values"]
    if not found:
        return []
    heads = list(next(iter(found.values())))
    rows = [[name, *(short(of[head]) for head in heads)] for name, of in found.items()]
    return [table(["", *(head.replace("_", " ") for head in heads)], rows, None)]


def short(value: Any) -> str:
    """A number in four digits, others as they are."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pictures(run: Loaded) -> list[str]:
    """What evaluation drew."""
    captions = {
        run.run.overlays: "Meta-test queries as they are, with their truth, and as marked.",
        run.run.episodes: "Meta-test episodes: support on the left, queries on the right.",
    }
    return [
        figure(path.read_bytes(), path.stem, text)
        for path, text in captions.items()
        if path.exists()
    ]


def data(run: Loaded) -> list[str]:
    """What the run was trained, chosen and judged on."""
    rows = []
    for side, of in run.data.get("sides", {}).items():
        groups = "-" if of["groups"] is None else of["groups"]
        rows.append([SIDES[side], of["images"], groups, len(of["classes"]), of["hash"]])
    parts = [f"<p>{escape(run.first['data'])}.</p>"]
    if rows:
        parts.append(table(["side", "images", "groups", "classes", "hash"], rows, None))
        for side, of in run.data["sides"].items():
            text = ", ".join(f"{name} {count}" for name, count in of["classes"].items())
            parts.append(
                f"<details><summary>{SIDES[side]} classes, with their images</summary>"
                f"<p>{escape(text)}</p></details>"
            )
    if run.run.sheet.exists():
        parts.append(figure(run.run.sheet.read_bytes(), "data", "The first images of each class."))
    return parts


def compute(run: Loaded) -> str:
    """What it took."""
    seconds = run.summary["seconds"]
    rates = [record["episodes_per_s"] for record in run.metrics]
    rows = [[f"{name}, s", f"{value:.1f}"] for name, value in seconds.items()]
    if rates:
        rows.append(["episodes/s, median", f"{np.median(rates):.1f}"])
    peak = run.summary.get("peak_mb")
    rows += [["memory of the process, at most, MB", f"{peak:.0f}"]] if peak else []
    rows.append(["device", run.summary["device"]])
    return table(["", ""], rows, None)


def environment(run: Loaded) -> str:
    """Versions and configuration, folded away."""
    import yaml

    found = {"environment": run.environment, "config": run.config}
    texts = {
        "environment": json.dumps(found["environment"], indent=1),
        "config": yaml.safe_dump(found["config"], sort_keys=False),
    }
    return "".join(
        f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>"
        for name, text in texts.items()
    )
