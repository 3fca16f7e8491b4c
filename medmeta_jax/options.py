"""What each verb of the command line but `train` can be told, and what `train` can beside its
configuration. Nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Eval:
    """Judge a run's best parameters on its meta-test episodes."""

    run: str
    """The run directory."""
    shots: tuple[int, ...] = ()
    """Support images a class, in place of the run's. Of several numbers, all rows at each, on the
    same episodes, kept for the run's report."""
    episodes: int | None = None
    """Number of episodes, in place of the run's."""
    baselines: Literal["none", "some", "all"] = "some"
    """Rows beside the learner's, as in train."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Adapt a run to a few labelled images, class folders for instance, and write a task.

    Its classes need not be any that the run has seen, and no more of them than its head has ways. A
    run of masks takes images with masks. What the support's source may be told, such as a plane,
    are options of their own: medmeta adapt RUN --support DIR --help shows them.
    """

    run: str
    """The run directory."""
    support: str | None = None
    """The labelled images: class folders, or any data set of one class an image; for a run of
    masks, images with masks. Needed."""
    out: str | None = None
    """The file of the task to write. Needed."""
    structure: str | None = None
    """Of masks: the value in them that is to be marked, or "any". Default: any but 0."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class Predict:
    """Tell images by a task that `medmeta adapt` wrote: a table of classes, probabilities and sets,
    or masks: PNG of pictures, NIfTI of volumes, on their own pixels.

    An image whose set holds not one class is not told for certain; its distance is 1 where it is as
    far from the support as that's images are from one another.
    """

    task: str
    """The file of the task."""
    images: str | None = None
    """An image, a folder of them, or any data set, whose labels are not read. Needed."""
    out: str | None = None
    """The CSV to write; of masks, the folder to make. Needed."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a task, or a run that adapts by itself, as one file for CPU and CUDA that needs jax,
    numpy and flatbuffers alone to run, and its reader beside it."""

    what: str
    """The file of a task of `medmeta adapt`, or a run directory."""
    out: str | None = None
    """The file to write. Needed."""
    weights: Literal["float32", "int8"] = "float32"
    """int8: kernels of a byte a weight in place of four, with a step for each output channel."""
    activations: Literal["float32", "int8"] = "float32"
    """int8: images are told by convolutions in integers. On a CPU that is quicker for volumes, and
    slower for images."""
    support: int | None = None
    """Of a run: the largest support set, in images. Default: twice that of its training."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class Compress:
    """Take channels out of a run's network and train on what is left, drawn to the answers of the
    whole: a new run, judged on the same episodes, for eval, adapt and export as any.

    Of conv4, resnet12, resnet18 and unet, under any norm but "group".
    """

    run: str
    """The run directory, complete."""
    share: float = 0.5
    """Of the operations that telling an image takes, how much is left at most."""
    by: Literal["sensitivity", "magnitude", "random"] = "sensitivity"
    """What stays: channels that the meta-loss is most sensitive to, or of the largest weights, or
    drawn by chance."""
    steps: int | None = None
    """Outer steps to train on for. Default: half of the run's."""
    seed: int = 0
    """Of the episodes that sensitivity is measured on, or of chance."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class Report:
    """One HTML file of a run or of several side by side, that needs no network; plots as PNG and
    SVG, with the CSV behind each, beside it."""

    runs: tuple[str, ...]
    """Run directories."""
    out: str | None = None
    """The file to write. Default: report.html in the run; of several runs it is needed."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Train and judge a run again, and tell whether it comes to the same, to the last bit."""

    run: str
    """The run directory, complete."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """Look at the episodes of one meta-step of a run: whose images, loss or gradient are not
    finite, and after which inner step. The run is trained up to it from the checkpoint before."""

    run: str
    """The run directory."""
    step: int = 0
    """The meta-step, counted from 0, as the message of a run that stopped says it."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class BenchMethods:
    """Compare methods on the same data, budget and episodes; goes on where it was stopped."""

    preset: str | None = None
    """As in train: what is learned, on what backbone, from images of what size. Default: none."""
    data: str | None = None
    """As in train. Default: the preset's, or else "anatomy"."""
    also: tuple[str, ...] = ()
    """As in train."""
    meta_val: str | None = None
    """As in train."""
    meta_test: str | None = None
    """As in train."""
    val_classes: tuple[str, ...] = ()
    """As in train."""
    test_classes: tuple[str, ...] = ()
    """As in train."""
    task: Literal["auto", "segmentation", "detection", "lesions", "patient"] | None = None
    """As in train."""
    backbone: str | None = None
    """As in train, with the budget's channels; segmentation and detection take unet."""
    methods: tuple[str, ...] = ("all",)
    """Algorithms, "scratch", "raw_centroid", "threshold" (of masks), or "all" that take what the
    labels are. Differences are from maml, or else from the first."""
    budget: Literal["small", "medium", "full"] = "small"
    """small: 8 channels, 160 training episodes, one seed, no search, 100 episodes judged.
    medium: 16 channels, 1,600, three seeds, settings searched on meta-validation, 200. full: 64
    channels, 8,000, three seeds, searched, 600."""
    shots: tuple[int, ...] = (1, 5)
    """Support images a class to be judged at; training draws from their range, up to 5."""
    ways: int | None = None
    """As in train."""
    image_size: int | None = None
    """As in train."""
    norm: Literal["batch", "support", "group", "none"] | None = None
    """As in train."""
    seeds: int | None = None
    """Training seeds, in place of the budget's."""
    out: str | None = None
    """Folder of the rows and tables. Default: bench/ and the names of data and budget."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class DataList:
    """List the data sources."""

    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class DataInspect:
    """Look at every file of a data set: counts, sizes, intensities, copies, unreadable files."""

    source: str
    """A built-in data set's name, a folder or a file."""
    out: str | None = None
    """Folder for a contact sheet and a histogram, as PNG."""
    covariates: str | None = None
    """A table with a column "group" (patient) and others, to be held against the data's groups."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class DataPrepare:
    """Read a data set once into a folder that is quick to open, with a manifest.

    What its source may be told, such as a window or a plane, are options of their own:
    medmeta data prepare SOURCE --help, with a source that is there, shows them.
    """

    source: str
    """A built-in data set's name, a folder or a file."""
    out: str | None = None
    """The folder to make. Needed."""
    image_size: int = 256
    """Longer sides above it are scaled down to so many pixels; 0 keeps all as they are."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a file that cannot be read does: "skip" leaves it out and writes it down."""
    skip_at_most: float = 0.05
    """The share of the files beyond which skipping fails after all."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class DataSplit:
    """Write down which side each image of a data set is on, for: medmeta train --split FILE.

    No group (patient) and no exact copy of an image is on two sides.
    """

    source: str
    """A built-in data set's name, a folder or a file."""
    out: str | None = None
    """The file to write (CSV). Needed."""
    by: Literal["class", "group", "one_group", "one_domain"] = "group"
    """Deal out whole classes; whole groups, each class in the same shares; or leave one group, or
    one domain, out for test."""
    val: float = 0.2
    """The share of the images for meta-validation, by "group"."""
    test: float = 0.2
    """The share of the images for meta-test, by "group"."""
    fold: int = 0
    """Which group or domain, in sorted order, is meta-test by "one_group" and "one_domain"; the
    next is meta-validation."""
    seed: int = 0
    """Of the order in which groups of one size are dealt."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a file that cannot be read does: "skip" leaves it out."""
    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Check devices, built-in data, cache, runs folder and versions."""

    json: bool = False
    """One JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Train in several processes of this machine: medmeta launch --processes N -- train ...

    Each has its own cores, or its own GPU. When one is lost, the others end.
    """

    processes: int = 2
    """How many. On GPUs, one each."""


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """Options of `train` that are not part of a run's configuration."""

    preset: str | None = None
    """A preset of medmeta_jax/presets; without --data and --config it is "anatomy"."""
    config: str | None = None
    """A YAML file of options, over the preset and under the flags."""
    resume: str | None = None
    """A run directory to go on with, exactly where it was; takes no other option."""
    dry_run: bool = False
    """Build and compile everything, print its cost, train nothing."""
    distributed: bool = False
    """Train together with the processes that SLURM, Open MPI or Kubernetes started beside
    this one. On one machine: medmeta launch."""
    json: bool = False
    """One JSON object on stdout."""
