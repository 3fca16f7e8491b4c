"""A run's table, and what stands below it: what its numbers are, and what they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from medmeta_jax.console import heading, percent

# What labels are where an episode is of one way, and what of them a bootstrap resamples.
RESAMPLED = {"values": "values", "masks": "structures", "objects": "kinds of objects"}


def table(summary: dict[str, Any], out: TextIO) -> None:
    """The results as aligned text: mean ± 95% interval over episodes, in per cent."""
    if not summary["results"]:
        return
    lines = cells(summary["results"])
    for text, line in zip(aligned([line[:-1] for line in lines]), lines, strict=True):
        print(f"{text}  {line[-1]}".rstrip(), file=out)
    print(footnote(summary), file=out)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells as lines of text: the first column to the left, the others to the right.

    >>> aligned([("learner", "F1"), ("maml", "62.4")])
    ['learner    F1', 'maml     62.4']
    """
    first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]) for line in lines]


def cells(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The heads of a table, and a line for each row."""
    first, columns = results[0]["learner"], results[0]["columns"]
    lines = [("learner", *map(heading, columns), f"minus {first}", "norm")]
    for row in results:
        gap = row.get(f"minus_{first}")
        versus = percent(gap, sign=True) if gap else ""
        scores = (percent(row.get(name)) for name in columns)
        lines.append((row["learner"], *scores, versus, row["norm"]))
    return lines


def footnote(summary: dict[str, Any]) -> str:
    """What the table's numbers are, and what they are not."""
    row = summary["results"][0]
    lines = [
        *better_lines(summary["results"]),
        *episode_lines(row),
        *value_lines(summary),
        *patient_lines(summary.get("patients", {}), row["learner"]),
        *mask_lines(row),
        *lesion_lines(summary["results"]),
        *object_lines(summary),
        *caveats(row),
        *grade_lines(summary),
        *calibration_lines(summary),
        *policy_lines(summary.get("policy", {})),
    ]
    return "\n".join(lines)


def episode_lines(row: Mapping[str, Any]) -> list[str]:
    """Which episodes the table is of, what else its first score varies over, and the data."""
    main, learner = row["columns"][0], row["learner"]
    low, high = row[f"{main}_over_classes"]
    one = row["labels"] in RESAMPLED
    said = []
    if low < high:  # of a single class there is nothing to resample
        said.append(
            f"Over resampled {RESAMPLED.get(row['labels'], row['labels'])}, {learner}'s "
            f"{heading(main)} lies in {100 * low:.1f} to {100 * high:.1f}."
        )
    if subjects := row.get(f"{main}_over_subjects"):
        said.append(
            f"Over {subjects['subjects']} groups (patients), {learner}'s {heading(main)} is "
            f"{percent(subjects)}."
        )
    return [
        f"{row['episodes']} {row['split']} episodes {row['episodes_hash']}, "
        f"{'' if one else span(row['ways']) + '-way '}{span(row['shots'])}-shot, "
        f"{queries_of(row)}; per cent, mean ± 95% interval over episodes, differences paired.",
        " ".join([*said, f"Data: {row['data']}."]),
    ]


def mask_lines(row: Mapping[str, Any]) -> list[str]:
    """What a distance of masks is measured in."""
    if row["labels"] != "masks":
        return []
    return ["HD95 is in hundredths of the image's diagonal; lower is better."]


def lesion_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the scores of lesions are, and how well rows tell whether there is one."""
    if results[0]["labels"] != "lesions":
        return []
    presence = [
        f"{row['learner']} {percent(row['presence_accuracy'])} (recall "
        f"{percent(row['presence_recall'])}, F1 {percent(row['presence_f1'])})"
        for row in results
    ]
    return [
        "Accuracy, recall and F1 are of which lesion an image shows, if any: the type of which "
        "most pixels are marked, and none where fewer than 4 are. Dice is over images with a "
        "lesion, whatever its type is taken for.",
        f"Whether there is a lesion at all: {'; '.join(presence)}.",
    ]


def grade_lines(summary: Mapping[str, Any]) -> list[str]:
    """How far grades agree with the truth."""
    kappa = summary.get("confusion", {}).get("quadratic_kappa")
    if not kappa:
        return []
    learner = summary["results"][0]["learner"]
    return [f"Grades: {learner}'s quadratic kappa {kappa['mean']:.2f} ± {kappa['ci95']:.2f}."]


def caveats(row: Mapping[str, Any]) -> list[str]:
    """What flatters the table's rows, or is missing from them."""
    found = []
    if row["norm"] == "batch":
        found.append(
            "Norm 'batch' takes its statistics from the query set (transductive): "
            "a score that one image at a time would not reach. --norm support is inductive."
        )
    if row["shared_groups"]:
        found.append(
            f"Meta-test shares {row['shared_groups']} groups (patients), and no image, with the "
            "classes that were trained on."
        )
    if row["copies"]:
        found.append(
            f"{row['copies']} images are copies of others; no episode has one in its support and "
            "the other among its queries."
        )
    if row["standardised"]:
        found.append(
            "Each domain's intensities were brought onto one scale; those of a data set that was "
            "not trained on by its own unlabelled images (transductive over the data set)."
        )
    if row["ungrouped"]:
        found.append(
            f"No groups (patients) are named by {', '.join(row['ungrouped'])}: there, images of "
            "one patient may stand in both support and query, which flatters every row."
        )
    if row["skipped"]:
        found.append(
            f"{len(row['skipped'])} files could not be read and are left out; the first is "
            f"{row['skipped'][0]}."
        )
    if row["disjoint"] == "image":
        found.append(
            "The data names no groups (patients), or they were set aside: images of one "
            "patient may stand in both support and query, which flatters every row."
        )
    return found


def better_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which rows are better than the first, by the interval of their difference.

    >>> gaps = {"scratch": (0.1, 0.04), "untrained": (0.03, 0.04)}
    >>> rows = [{"learner": k, "minus_maml": {"mean": m, "ci95": c}} for k, (m, c) in gaps.items()]
    >>> better_lines([{"learner": "maml"}, *rows])
    ['Better than maml here: scratch (+10.0 ± 4.0).']
    """
    first = results[0]["learner"]
    gaps = {row["learner"]: row[f"minus_{first}"] for row in results[1:]}
    better = [
        f"{name} ({percent(gap, sign=True)})"
        for name, gap in gaps.items()
        if gap["mean"] > gap["ci95"]
    ]
    return [f"Better than {first} here: {', '.join(better)}."] if better else []


def patient_lines(found: Mapping[str, Any], learner: str) -> list[str]:
    """What adapting to patients does to those whom it serves worst."""
    if not found:
        return []
    rows, lines = found["rows"], []
    for name in (learner, f"{learner}-careful"):
        row = rows[name]
        lines.append(
            f"{name} serves {100 * row['made_worse']:.0f}% of {found['patients']} patients worse "
            f"than the one model for all, by {100 * row['mean_loss']:.1f} on average over all; its "
            f"worst tenth have {100 * row['worst_decile']:.1f}, those of the one model "
            f"{100 * rows['global']['worst_decile']:.1f}."
        )
    return [*lines, "Support is what was seen of a patient earlier; no patient is on two sides."]


def value_lines(summary: dict[str, Any]) -> list[str]:
    """What the scores of values are, and what they come to in the values' own units."""
    if summary["results"][0]["labels"] != "values":
        return []
    own = [
        f"{name} {found['mean_absolute_error']:.3g} (sd {found['sd']:.3g})"
        for name, found in summary.get("values", {}).items()
    ]
    return [
        "R² is 1 - the squared error over the variance of the data set's values; the error is the "
        "mean absolute one, in hundredths of their standard deviation, which is taken as known."
    ] + ([f"{summary['results'][0]['learner']} is off by {', '.join(own)}."] if own else [])


def object_lines(summary: dict[str, Any]) -> list[str]:
    """What the scores of objects are, and the interval of CPM over patients."""
    if summary["results"][0]["labels"] != "objects":
        return []
    lines = [
        "An object is found where the middle of a part marked above a half lies in its box. CPM is "
        "the mean sensitivity at 1/8 to 8 false positives an image, AP average precision; recall "
        "and precision are of all parts."
    ]
    found = summary.get("objects")
    if found:
        low, high = (100 * end for end in found["over_groups"])
        lines.append(
            f"{summary['results'][0]['learner']}'s CPM of all images together is "
            f"{100 * found['cpm']:.1f}, {low:.1f} to {high:.1f} when patients (or images, where "
            "none are named) are resampled."
        )
    return lines


def interval_lines(found: dict[str, Any]) -> list[str]:
    """How far the interval about a predicted value can be trusted."""
    if found["half_width"] is None:
        return [f"{found['tasks']} meta-validation tasks are too few for an interval."]
    return [
        f"Intervals of ± {found['half_width']:.2f} standard deviations, made to hold the truth "
        f"{100 * found['coverage']:.0f}% of the time on meta-validation, hold it "
        f"{percent(found['meta_test']['covered'])} on meta-test."
    ]


def calibration_lines(summary: dict[str, Any]) -> list[str]:
    """How far the learner's probabilities can be trusted."""
    found = summary.get("calibration")
    if not found:
        return []
    if "half_width" in found:
        return interval_lines(found)
    judged, ways = found["meta_test"], f"{span(summary['results'][0]['ways'])} ways"
    lines = []
    if "threshold" in found:
        own = summary["results"][0]
        lines.append(
            f"Several labels an image: AUROC {percent(own['auroc'])}. Threshold "
            f"{found['threshold']:.2f}, chosen on meta-validation: F1 "
            f"{percent(judged['at_threshold']['f1'])}, at a half "
            f"{percent(judged['at_half']['f1'])}."
        )
        ways = "2 answers (absent, present) for each label"
    size = judged["set_size"]
    return [
        *lines,
        f"Temperature {found['temperature']:.2f}, fitted on meta-validation: calibration error "
        f"{percent(judged['as_is']['ece'])} as it is, {percent(judged['calibrated']['ece'])} "
        f"with it. Sets made to hold the truth {100 * found['coverage']:.0f}% of the time on "
        f"classes of meta-validation hold it {percent(judged['covered'])} on those of meta-test, "
        f"with {size['mean']:.1f} ± {size['ci95']:.1f} of {ways}.",
    ]


def policy_lines(found: Mapping[str, Any]) -> list[str]:
    """What augmentation was learned.

    >>> policy_lines({"share": {"none": 0.4, "noise": 0.6}, "magnitude": {"noise": 0.2}})
    ['Learned augmentation of copies of the support: noise 0.2 (60%), none 40%.']
    """
    if not found:
        return []
    ops = [
        f"{name} {size:.3g} ({100 * found['share'][name]:.0f}%)"
        for name, size in found["magnitude"].items()
    ]
    none = [
        f"{name} {100 * share:.0f}%"
        for name, share in found["share"].items()
        if name not in found["magnitude"]
    ]
    return [f"Learned augmentation of copies of the support: {', '.join((*ops, *none))}."]


def queries_of(row: Mapping[str, Any]) -> str:
    """How many queries a class the episodes have, where some classes lack images for all."""
    if row["labels"] in RESAMPLED:
        return f"{row['queries']} queries, {row['queries_mean']} on average"
    if "auroc" in row:
        return (
            f"{row['queries']} queries for each label and as many without, "
            f"{row['queries_mean']} that show it on average"
        )
    if row["queries_mean"] == row["queries"]:
        return f"{row['queries']} queries a class"
    lacking = row["ways_without_query"]
    none = f", {lacking} times none at all" if lacking else ""
    return f"at most {row['queries']} queries a class, {row['queries_mean']} on average{none}"


def span(value: Any) -> str:
    """A number or [lowest, highest] as text.

    >>> span(5), span([2, 5])
    ('5', '2 to 5')
    """
    return f"{value[0]} to {value[1]}" if isinstance(value, list) else str(value)
