"""What a training run may be told. Validity is in `config.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


class ConfigError(ValueError):
    """A configuration that cannot be run. The message names the field and the remedy."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Meta-train a learner, judge it on classes it has never seen, write a run directory.

    Defaults are shown as they are with the options before --help: the built-in data, which is
    small, has its own; medmeta train --data PATH --help shows those of any other.
    """

    data: str = "anatomy"
    """What to train on: "anatomy" (built in), or a folder or file (medmeta data list)."""
    read: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the source that reads `data`."""
    also: tuple[str, ...] = ()
    """More data sets to meta-train on, each a domain of its own."""
    mixing: tuple[float, ...] = ()
    """How often an episode comes from `data` and each of `also`. Default: alike."""
    meta_val: str | None = None
    """Another data set to validate on, with all its classes, in place of a part of `data`."""
    meta_test: str | None = None
    """Another data set to be judged on, with all its classes, in place of a part of `data`."""
    val_classes: tuple[str, ...] = ()
    """Classes of `data` that are meta-validation's, in place of the rule that deals them out."""
    test_classes: tuple[str, ...] = ()
    """Classes of `data` that are meta-test's; those that are in neither list are meta-train's."""
    task: Literal["auto", "segmentation", "detection", "lesions", "patient"] = "auto"
    """What is learned: by "auto" what images are labelled by, classes, several labels or values;
    "segmentation" is to mark the structures of their masks; "detection" is to find objects by their
    boxes, a kind of them an episode, or where there are masks and no boxes their separate parts;
    "lesions" is to tell which lesion an image shows, if any, and to mark it; "patient" takes
    patients as tasks, what was seen earlier as support, and later as query."""
    shrink: float = 0.5
    """Of detection: an object is marked by an ellipse so much as wide and as high as its box, so
    that neighbours stay apart."""
    modalities: tuple[str, ...] = ()
    """The images of these modalities of a patient are one, and its channels; some may be absent
    (backbone multimodal). Default: an image is of one."""
    covariates: str | None = None
    """A table (CSV) with a column "group" (patient): each other column, such as an age or a gene's
    value, is one more channel of that patient's images (backbone multimodal where some is missing).
    """
    split: str | None = None
    """A file by `medmeta data split`: which side each image of `data` is on."""
    image_size: int = 28
    """Images are scaled to this many pixels a side, padded to a square."""
    standardise: bool = False
    """Each domain's intensities are brought onto one scale by the landmarks of its histogram."""
    stream: Literal["auto", "always", "never"] = "auto"
    """Images stay in their files and are read as they are needed, which takes a folder by `medmeta
    data prepare`. "auto": where all of them would not fit into a quarter of a device's memory."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a file that cannot be read does: "skip" leaves it out, up to 5% of the files, and the
    table says so."""
    ways: int | tuple[int, int] | None = None
    """Classes an episode, or lowest and highest. Default: 5, or all of the smallest split."""
    shots: int | tuple[int, int] = 1
    """Support images a class, or lowest and highest."""
    queries: int = 15
    """Query images a class."""
    disjoint: Literal["auto", "image", "group", "time"] = "auto"
    """What support and query never share. "auto": groups where the data has them."""
    balance: Literal["balanced", "proportional"] = "balanced"
    """Queries the same for each class, or in the classes' true proportions."""
    within: Literal["auto", "any", "domain"] = "auto"
    """An episode's classes are of any domain, or all of one. "auto": of one where `also` is."""
    ordered: bool = False
    """Classes are grades, in the data set's order: they keep it in every episode, and the loss
    counts how far off a prediction is."""
    shuffle_labels: bool = True
    """Classes stand in random order in each episode; else always in the data set's own."""
    rotate_classes: bool = False
    """In meta-training a class turned by a quarter is another class. Not for anatomy."""
    algorithm: str = "maml"
    """A file of medmeta_jax/algorithms; its own arguments are the `hyper` options."""
    hyper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the algorithm."""
    backbone: str = "conv4"
    """A file of medmeta_jax/backbones; its own arguments are the `net` options."""
    net: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the backbone."""
    init_from: str | None = None
    """A run, or a .npz or .safetensors file: parameters of the same names start from it."""
    teacher: str | None = None
    """A run on the same data: the learner is drawn to what it answers, adapted to the same episode
    (distillation). For a network of other widths: medmeta compress."""
    norm: Literal["batch", "support", "group", "none"] = "support"
    """Where normalisation statistics come from. "batch" is transductive on the query set."""
    augment: tuple[str, ...] = ("rotate", "scale", "crop")
    """Files of medmeta_jax/augment, applied to the episodes of meta-training."""
    augment_on: Literal["support", "query", "both", "task", "shot"] = "both"
    """Which side of an episode is augmented, each image by itself; or all images of a class alike,
    which makes it another one (task); or a copy of each support image, which is learned from beside
    it, at meta-test too (shot)."""
    policy: tuple[str, ...] = ()
    """Files of medmeta_jax/augment that change copies of the support images, as often and as much
    as is learned with the network."""
    policy_how: Literal["draw", "sum"] = "draw"
    """Each copy is changed by one of them, drawn, or by the sum of all by learned weights."""
    policy_by: Literal["task", "step"] = "task"
    """Copies are made once a task, or at each inner step by a policy of its own (maml)."""
    policy_copies: int = 1
    """Of each support image, beside itself."""
    mix: Literal["none", "mixup", "cutmix", "metamix", "mlti"] = "none"
    """In meta-training a query is mixed with another one (mixup; cutmix, by a box), or with an
    image of the support (metamix), and its loss is of both labels; or one episode in two with
    another one, way by way (mlti)."""
    mix_alpha: float = 1.0
    """Of the Beta distribution that the share of the first one has; 1 is uniform."""
    meta_steps: int = 600
    """Outer steps."""
    meta_batch: int = 4
    """Episodes an outer step."""
    devices: int | None = None
    """Devices to spread a meta-batch over. Default: as many as there are (on a CPU, cores)
    and divide it. Each holds the data set, where it is not streamed."""
    chunk: int | None = None
    """Episodes that a device runs side by side. Default: 1 on a CPU, elsewhere as many of its
    share as its memory holds."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """What the operands of matrix products are rounded to on a GPU or TPU; sums, parameters,
    statistics and losses stay float32. A CPU computes in float32 alone."""
    objective: Literal["mean", "cvar", "tr_maml", "mldg"] = "mean"
    """What of a meta-batch's losses is lowered: their mean, the mean of the worst (cvar), that of
    the worst domain (tr_maml), or that of pairs, a step towards whose first domain is to help on
    the second (mldg)."""
    worst_share: float = 0.5
    """Of the episodes of a meta-batch, for objective cvar."""
    domain_rate: float = 0.01
    """Of the ascent on the domains' weights, for objective tr_maml; of the step on the first of two
    domains, for mldg."""
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    """The outer optimiser; sgd has momentum 0.9."""
    outer_lr: float = 3e-3
    """Learning rate of the outer optimiser."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the outer rate falls over `meta_steps`."""
    clip: float = 10.0
    """Largest norm of the meta-gradient; 0 leaves it as it is."""
    validate_every: int = 100
    """Outer steps between meta-validations, which also write a checkpoint."""
    val_episodes: int = 200
    """Episodes of a meta-validation."""
    patience: int = 0
    """Stop after so many meta-validations without a better one; 0 never stops."""
    dispatch: int = 25
    """Outer steps of one dispatch to the device."""
    test_episodes: int = 600
    """Episodes of the final evaluation."""
    tensorboard: bool = False
    """Write TensorBoard events too, into the run's `events` (extra tensorboard)."""
    baselines: Literal["none", "some", "all"] = "some"
    """Rows beside the learner's. "some": untrained, scratch, raw-centroid. "all": also
    those that pre-train an ordinary classifier on the meta-train classes."""
    seed: int = 0
    """Seed of initialisation and episodes."""
