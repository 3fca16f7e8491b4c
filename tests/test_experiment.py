"""A run's parts put together: which classes judge, what a baseline may look at, who wins."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medmeta_jax import (
    baselines,
    details,
    experiment as experiments,
    learners,
    registry,
    running,
    runs,
    train,
    uncertainty,
)
from medmeta_jax.checkpoint import Checkpoints
from medmeta_jax.data import folder
from medmeta_jax.data.samples import DataError
from medmeta_jax.evaluation import Predictions, evaluate, sample_key
from medmeta_jax.experiment import Experiment
from medmeta_jax.labels import CLASSES, MASKS, OBJECTS, SEVERAL, VALUES
from medmeta_jax.metrics import multi_label
from medmeta_jax.settings import ConfigError, TrainConfig
from medmeta_jax.types import Examples

from .conftest import write_cells, write_toy

CONFIG = TrainConfig(
    image_size=8, hyper={"steps": 1}, net={"width": 4, "depth": 2}, meta_steps=40, meta_batch=2,
    val_episodes=6, test_episodes=8, queries=2, augment=("flip",), validate_every=20, dispatch=20,
)  # fmt: skip

# Three episodes of two queries, all predicted right.
RIGHT = Predictions(
    logits=np.tile(5.0 * np.eye(2), (3, 1, 1)), y=np.tile([0, 1], (3, 1)),
    mask=np.ones((3, 2), bool), classes=np.tile([0, 1], (3, 1)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def strict_promotion() -> None:
    """Not here: optax's schedules and Adam mix a float with an int count."""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    path = write_toy(tmp_path_factory.mktemp("experiment") / "toy.npz")
    return experiments.build(dataclasses.replace(CONFIG, data=str(path)))


def drawn_classes(experiment: Experiment, side: str) -> set[str]:
    episodes = getattr(experiment, side)
    draw = jax.jit(experiment.sampler)
    labels = {
        int(label)
        for key in episodes.keys
        for label in draw(sample_key(key), episodes.pool).classes
    }
    return {experiment.split.class_names[label] for label in labels}


def test_a_run_starts_from_the_best_parameters_of_another(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Of a ProtoNet, MAML takes the body, and has its own head; both report it by name."""
    folder = runs.Run(tmp_path)
    folder.config.write_text("", encoding="utf-8")
    config = dataclasses.replace(experiment.config, algorithm="protonet", hyper={}, seed=7)
    other = experiments.build(config)
    progress = running.initial_progress(other, other.training)
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.save(1, progress)
    checkpoints.close()
    started = experiments.build(dataclasses.replace(experiment.config, init_from=str(tmp_path)))
    assert started.weights
    assert all(name.startswith("body/") for name in started.weights)
    params = running.initial_progress(started, started.training).state.params
    jax.tree.map(np.testing.assert_array_equal, params["body"], progress.best_params["body"])
    plain = running.initial_progress(experiment, experiment.training).state.params
    jax.tree.map(np.testing.assert_array_equal, params["head"], plain["head"])


@pytest.mark.parametrize("side", ["val", "test"])
def test_each_side_is_judged_on_its_own_classes(experiment: Experiment, side: str) -> None:
    drawn = drawn_classes(experiment, side)
    assert drawn
    assert drawn <= set(experiment.split.classes[side])
    others = {n for s, names in experiment.split.classes.items() if s != side for n in names}
    assert not drawn & others


def test_the_difference_is_row_minus_learner() -> None:
    def row(name: str, accuracy: list[float]) -> baselines.Row:
        values = {key: np.asarray(accuracy) for key in ("accuracy", "recall", "f1")}
        return baselines.Row(
            name, "none", baselines.Scores(CLASSES, values, (0.0, 1.0), RIGHT, RIGHT), {}
        )

    first, worse = row("maml", [0.8, 0.9, 0.7]), row("scratch", [0.5, 0.7, 0.3])
    found = baselines.result(worse, first, {})
    assert found["minus_maml"]["mean"] == pytest.approx(-0.3)
    assert "minus_maml" not in baselines.result(first, first, {})


def test_settings_are_chosen_on_meta_validation_and_are_the_best(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def scored(family, params, episodes, *, steps, settings):
        seen.append((episodes.pool is experiment.val.pool, settings[0], steps))
        value = 0.9 if (settings[0], steps) == (0.2, 20) else 0.1
        scores = {"accuracy": np.array([value, value])}
        return baselines.Scores(CLASSES, scores, (0.0, 1.0), RIGHT, RIGHT)

    monkeypatch.setattr(baselines, "evaluate", scored)
    row = baselines.scratch(running.task_of(experiment))
    assert (row.chosen["inner_lr"], row.chosen["steps"]) == (0.2, 20)
    assert all(on_val for on_val, *_ in seen[:-1])
    assert seen[-1] == (False, 0.2, 20)


@pytest.mark.slow
def test_pre_training_learns_the_pools_own_classes(experiment: Experiment) -> None:
    """Its labels are the pool's, not the episode's: the classifier tells all classes apart."""
    learner = registry.factory("algorithms", "nearest_centroid")(
        experiment.backbone, outputs=experiment.outputs, pool_classes=9
    )
    constant = experiment._replace(optimiser=optax.adam(1e-2))
    step, _, seconds = running.compile_step(constant, learner)
    assert seconds > 0
    progress = running.initial_progress(constant, learner)
    reports = list(
        train.fit(step, progress, experiment.split.pools["train"], steps=300, dispatch=20)
    )
    losses = [float(report.metrics.loss.mean()) for report in reports]
    assert losses[-1] < 0.3 < losses[0]


def test_labels_of_whole_images_take_a_backbone_of_these(experiment: Experiment) -> None:
    """Whatever an algorithm makes of maps, or JAX says of their shapes."""
    for algorithm in ("maml", "protonet", "pmf", "r2d2", "linear_probe"):
        config = dataclasses.replace(
            experiment.config, algorithm=algorithm, hyper={}, backbone="unet", net={"width": 4}
        )
        with pytest.raises(ConfigError, match="backbone: unet has an output for each pixel, and"):
            experiments.build(config)
    config = dataclasses.replace(experiment.config, algorithm="alpnet", hyper={})
    with pytest.raises(ConfigError, match="algorithm: alpnet: has a prototype for the pixels of"):
        experiments.build(config)


@pytest.mark.parametrize("side", ["support", "query", "both", "task", "shot"])
def test_augmentation_touches_the_side_it_is_told_to(experiment: Experiment, side: str) -> None:
    def loss(params, episode, key, step):
        return episode

    config = dataclasses.replace(experiment.config, augment=("rotate",), augment_on=side)
    learner = learners.with_augmentation(
        config, experiment.split, experiment.learner._replace(loss=loss)
    )
    key = jax.random.key(0)
    episode = jax.jit(experiment.sampler)(key, experiment.split.pools["train"])
    seen = jax.jit(learner.loss)({}, episode, key, jnp.zeros((), jnp.int32))
    for name in ("support", "query"):
        same = bool((getattr(seen, name).x == getattr(episode, name).x).all())
        assert same == (name != side and side not in ("both", "task"))


def test_more_shots_are_a_part_of_the_learner(experiment: Experiment) -> None:
    config = dataclasses.replace(
        experiment.config, algorithm="protonet", hyper={}, augment=("rotate",), augment_on="shot"
    )
    make = functools.partial(
        learners.make_learner, backbone=experiment.backbone, outputs=experiment.outputs,
        classes=9, kind=experiment.kind,
    )  # fmt: skip
    key, x = jax.random.key(0), experiment.example_x
    with_copies, plain = make(config), make(dataclasses.replace(config, augment=()))
    params, n = plain.init(key, x), len(x)
    support = Examples(x + jnp.arange(x.size).reshape(x.shape), jnp.arange(n), jnp.ones(n, bool))
    found, other = (each.adapt(params, support, key) for each in (with_copies, plain))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(found, other, rtol=1e-3)


def test_a_form_is_for_backbones_that_have_one() -> None:
    pixels = dataclasses.replace(CONFIG, backbone="pixels", norm="none", net={})
    assert learners.make_backbone(pixels).norm == "none"
    with pytest.raises(ConfigError, match="backbone: pixels has no convolutions of form int8"):
        learners.make_backbone(pixels, form="int8")


def test_the_optimiser_is_the_configured_one() -> None:
    """Clipped to norm 1, one SGD step at rate 0.5 is 0.5 long; a cosine's last step is 0."""
    config = TrainConfig(optimiser="sgd", outer_lr=0.5, clip=1.0, meta_steps=4)
    made = experiments.outer_optimiser(config)
    params, grads = jnp.zeros(3), jnp.array([30.0, 0.0, 40.0])
    state, lengths = made.init(params), []
    for _ in range(5):
        updates, state = made.update(grads, state, params)
        lengths.append(float(jnp.linalg.norm(updates)))
    assert lengths[0] == pytest.approx(0.5)
    assert lengths[4] == pytest.approx(0.0, abs=1e-6)


def test_norm_statistics_are_those_of_the_adapted_network(experiment: Experiment) -> None:
    """Judged on the support itself, the adapted network normalises with its own statistics."""
    learner, key = experiment.learner, jax.random.key(0)
    episode = jax.jit(experiment.sampler)(key, experiment.split.pools["train"])
    params = learner.init(key, experiment.example_x)
    adapted = learner.adapt(params, episode.support, key)
    x, mask = episode.support.x, episode.support.mask
    _, stats = experiment.backbone.apply(adapted.params["body"], x, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), adapted.stats, stats)
    _, before = experiment.backbone.apply(params["body"], x, mask)
    gaps = jax.tree.map(lambda a, b: float(abs(a - b).max()), adapted.stats, before)
    assert max(jax.tree.leaves(gaps)) > 1e-4


@pytest.mark.slow
def test_a_data_set_for_each_side_and_two_to_train_on(tmp_path: Path) -> None:
    """Episodes of one domain by default; turned classes in meta-training alone."""
    paths = {}
    for seed, name in enumerate(("a", "b", "c", "d")):
        images = np.random.default_rng(seed).integers(0, 256, (16, 8, 8), np.uint8)
        paths[name] = str(tmp_path / f"{name}.npz")
        np.savez(paths[name], images=images, labels=np.repeat(np.arange(4 - seed // 3), 6)[:16])
    config = dataclasses.replace(
        CONFIG, data=paths["a"], also=(paths["b"],), meta_val=paths["c"], meta_test=paths["d"],
        rotate_classes=True, mixing=(1.0, 2.0),
    )  # fmt: skip
    made = experiments.build(config)
    assert made.spec.within == "domain"
    assert made.spec.ways == 3
    assert made.split.classes["train"] == ("a/class0", "a/class1", "a/class2", "b/class0",
                                           "b/class1", "b/class2")  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 50)
    draw = jax.vmap(made.sampler, (0, None))
    assert made.sampler.keywords["spec"].rotate
    assert not made.val.sampler.keywords["spec"].rotate
    classes = np.asarray(draw(keys, made.split.pools["train"]).classes)
    assert set(np.ptp(classes // 3, axis=1)) == {0}
    with pytest.raises(experiments.ConfigError, match="two data sets are named 'a'"):
        experiments.build(dataclasses.replace(config, also=(paths["a"],)))


def test_an_objective_that_cannot_be_is_refused(experiment: Experiment) -> None:
    def build(**changes: object) -> None:
        experiments.build(dataclasses.replace(experiment.config, **changes))

    with pytest.raises(experiments.ConfigError, match="worst_share: share must be"):
        build(objective="cvar", worst_share=0.0)
    with pytest.raises(experiments.ConfigError, match="tr_maml weighs domains"):
        build(objective="tr_maml")
    with pytest.raises(experiments.ConfigError, match="mldg weighs domains"):
        build(objective="mldg")


def findings(where: Path) -> TrainConfig:
    """Six labels, each a bright patch of an 8-pixel image."""
    rng = np.random.default_rng(0)
    labels = rng.random((240, 6)) < 0.3
    patches = np.kron(np.eye(6).reshape(6, 2, 3), np.ones((1, 4, 3)))[:, :, :8]
    images = rng.integers(0, 60, (240, 8, 8)) + 120 * np.einsum("nl,lhw->nhw", labels, patches)
    path = str(where / "findings.npz")
    np.savez(path, images=images.clip(0, 255).astype(np.uint8), labels=labels.astype(np.uint8))
    return dataclasses.replace(CONFIG, data=path, ways=2)


@pytest.mark.slow
def test_several_labels_from_end_to_end(tmp_path: Path) -> None:
    """Trained, chosen by AUROC, and told at a threshold of meta-validation alone."""
    made = experiments.build(findings(tmp_path))
    assert made.kind is SEVERAL
    step = running.compile_step(made, made.training).step
    params = running.fit_quietly(made, step, inner_steps=1).best_params
    row = next(iter(running.judge(made, params)))
    assert row.scores.headline == row.scores.estimate("auroc") != row.scores.estimate("accuracy")
    validated = running.validation(made, made.learner, 1)(params)
    assert validated == evaluate(made.learner, params, made.val, steps=1).estimate("auroc").mean
    found = baselines.result(row, row, running.facts(made, running.task_of(made)))
    assert found["auroc"]["mean"] == row.scores.estimate("auroc").mean
    assert 0 <= found["pooled"]["brier"]["mean"] <= 1

    told = row.scores.predictions
    report = uncertainty.threshold_report(made, params, told)
    count, seed = made.config.val_episodes, uncertainty.CALIBRATION_SEED
    of_val = uncertainty.validation_tasks(made, params, seed, count)
    p_val, p = (multi_label.sigmoid(some.logits) for some in (of_val, told))
    assert report["threshold"] == multi_label.best_threshold(p_val, of_val.y, of_val.mask)
    f1 = multi_label.label_scores(p, told.y, told.mask, report["threshold"])["f1"].mean()
    assert report["meta_test"]["at_threshold"]["f1"]["mean"] == pytest.approx(f1)

    # Each label of each query is a question: what the sets promise is of these.
    calibration = uncertainty.calibrate(made, params, coverage=0.5)
    judged = uncertainty.judged(calibration, told)
    way = told.y > 0
    p = multi_label.sigmoid(told.logits / calibration.temperature)
    held = 1 - np.where(way, p, 1 - p) <= calibration.quantile + 1e-12
    share = (held & told.mask[..., None]).sum((1, 2)) / (way.shape[-1] * told.mask.sum(1))
    assert judged["covered"]["mean"] == pytest.approx(share.mean(), abs=1e-6)
    assert 0 < share.mean() < 1


def test_classes_of_several_labels_are_not_rotated(tmp_path: Path) -> None:
    config = findings(tmp_path)
    with pytest.raises(DataError, match="meta-train: images have several labels"):
        experiments.build(dataclasses.replace(config, rotate_classes=True))


def test_a_damaged_file_is_left_out_where_asked_and_told(tmp_path: Path) -> None:
    source = folder.example(tmp_path / "damaged")
    (tmp_path / "damaged" / "a" / "0.png").write_bytes(b"")
    config = dataclasses.replace(CONFIG, data=source, ways=2)
    with pytest.raises(DataError, match=r"a/0\.png: not a readable image"):
        experiments.build(config)
    made = experiments.build(dataclasses.replace(config, on_error="skip"))
    facts = running.facts(made, running.task_of(made))
    assert facts["skipped"] == ["a/0.png"]
    assert sum(len(pool.x) for pool in made.split.pools.values()) == 35


def test_grades_have_a_kappa_and_classes_a_confusion(experiment: Experiment) -> None:
    """The pool's numbers of the classes are told from their places on the meta-test side."""
    labels = np.asarray(experiment.split.pools["test"].labels)
    classes = np.tile(labels[[1, 0]], (3, 1))
    found = details.by_class(experiment, RIGHT._replace(classes=classes))
    expected = np.zeros((len(labels),) * 2, int)
    expected[0, 0] = expected[1, 1] = 3
    np.testing.assert_array_equal(found["counts"], expected)
    assert found["classes"] == list(experiment.split.classes["test"])
    assert found["absent"] == 0
    assert "quadratic_kappa" not in found
    graded = experiment._replace(config=dataclasses.replace(experiment.config, ordered=True))
    wrong = RIGHT._replace(classes=classes, y=RIGHT.y[:, ::-1])
    for predictions, kappa in ((RIGHT._replace(classes=classes), 1.0), (wrong, -1.0)):
        assert details.by_class(graded, predictions)["quadratic_kappa"]["mean"] == kappa


def measured_images(where: Path) -> str:
    """Images as bright as one value, and as wide as another."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, (120, 2)).astype(np.float32)
    images = np.zeros((120, 8, 8), np.uint8)
    for image, (bright, wide) in zip(images, values, strict=True):
        image[2:6, : 1 + int(7 * wide)] = 60 + int(190 * bright)
        image[7] = rng.integers(0, 9, 8)  # no two are the same
    path = where / "measured.npz"
    np.savez(path, images=images, values=values, value_names=["bright", "wide"])
    return str(path)


@pytest.mark.slow
def test_values_from_end_to_end(tmp_path: Path) -> None:
    """Trained, chosen by R², beside the support's mean, and told in their own units."""
    config = dataclasses.replace(
        CONFIG, data=measured_images(tmp_path), shots=5, queries=5, algorithm="r2d2", hyper={}
    )
    made = experiments.build(config)
    assert made.kind is VALUES
    assert made.outputs == 1
    step = running.compile_step(made, made.training).step
    params = running.fit_quietly(made, step).best_params
    rows = {row.learner: row for row in running.judge(made, params)}
    assert list(rows) == ["r2d2", "r2d2-untrained", "scratch", "support-mean"]
    own, mean = rows["r2d2"].scores, rows["support-mean"].scores
    assert own.estimate("r2").mean > mean.estimate("r2").mean + 0.2
    y, mask = mean.predictions.y, mean.predictions.mask
    assert mean.estimate("r2").mean == pytest.approx(
        np.mean([1 - (y[e][mask[e]] ** 2).mean() for e in range(len(y))]), abs=1e-5
    )
    facts = running.facts(made, running.task_of(made))
    assert (facts["ways"], facts["queries_mean"], facts["labels"]) == (1, 5.0, "values")
    found = baselines.result(rows["support-mean"], rows["r2d2"], facts)
    gap = mean.estimate("r2").mean - own.estimate("r2").mean
    assert found["minus_r2d2"]["mean"] == pytest.approx(gap)
    units = details.by_value(made, own.predictions)
    assert set(units) == {"bright", "wide"}
    spread = np.asarray(made.split.pools["test"].spread)
    for place, of in enumerate(units.values()):
        here = own.predictions.classes[:, 0] == place
        off = (own.predictions.logits[here, :, 0] - y[here])[mask[here]] * spread[place]
        assert of["mean_absolute_error"] == pytest.approx(np.abs(off).mean(), rel=1e-4)
    honest = uncertainty.of_run(made, params, own.predictions)
    held = np.abs(own.predictions.logits[..., 0] - y) <= (honest["half_width"] or np.inf)
    assert honest["meta_test"]["covered"]["mean"] == pytest.approx((held & mask).sum() / mask.sum())
    assert details.by_class(made, own.predictions) == {}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"algorithm": "protonet", "hyper": {}}, "algorithm: protonet: has a prototype for each"),
        ({"algorithm": "linear_probe", "hyper": {}}, "linear_probe pre-trains a classifier of one"),
        ({"baselines": "all"}, "baselines: 'all' pre-trains a classifier of one class an image"),
        ({"ways": 2}, "ways: images have values, of which an episode is of one; leave it out"),
    ],
)
def test_what_values_cannot_be_is_refused(tmp_path: Path, changes: dict, says: str) -> None:
    config = dataclasses.replace(CONFIG, data=measured_images(tmp_path), **changes)
    with pytest.raises(ConfigError, match=says):
        experiments.build(config)


OF_CELLS = dataclasses.replace(
    CONFIG, task="detection", backbone="unet", net={"width": 4, "depth": 2},
    image_size=24, algorithm="panet", hyper={}, augment=(),
    val_classes=("platelet",), test_classes=("wbc",), meta_steps=20,
)  # fmt: skip


@pytest.mark.slow
def test_objects_from_end_to_end(tmp_path: Path) -> None:
    """Trained on dark cells, chosen by CPM, judged on bright ones of other images by boxes."""
    made = experiments.build(dataclasses.replace(OF_CELLS, data=str(write_cells(tmp_path / "s"))))
    assert made.kind is OBJECTS
    assert made.outputs == 2
    assert made.split.classes == {"train": ("rbc",), "val": ("platelet",), "test": ("wbc",)}
    step = running.compile_step(made, made.training).step
    params = running.fit_quietly(made, step).best_params
    rows = {row.learner: row for row in running.judge(made, params)}
    assert list(rows) == ["panet", "panet-untrained", "scratch", "threshold"]
    own = rows["threshold"].scores
    # What is brightest is the cell and the platelet: one false positive an image that ranks alike.
    assert own.estimate("object_recall").mean == 1
    assert own.estimate("object_precision").mean == pytest.approx(0.5, abs=0.1)
    boxes = own.predictions.y
    assert boxes.shape[2:] == (4, 2, 2)
    assert (~np.isnan(boxes).any((3, 4))).sum(2).tolist() == [[1, 1]] * 8
    facts = running.facts(made, running.task_of(made))
    assert (facts["ways"], facts["labels"], facts["columns"][0]) == (1, "objects", "cpm")
    found = baselines.result(rows["scratch"], rows["panet"], facts)
    assert {"minus_panet", "ap", "object_recall", "object_precision"} <= found.keys()
    assert found["pooled"].keys() >= {"cpm", "ap", "false_positives"}
    curve = details.by_object(made, own)
    assert curve["cpm"] == own.pooled()["cpm"].mean
    low, high = curve["over_groups"]
    assert low <= curve["cpm"] <= high
    assert uncertainty.of_run(made, params, own.predictions) == {}
    assert details.by_class(made, own.predictions) == {}
    assert details.by_object(made._replace(kind=MASKS), own) == {}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"backbone": "conv4", "net": {}, "algorithm": "maml", "hyper": {}},
            "a backbone that has,",
        ),
        ({"algorithm": "protonet", "hyper": {}}, "algorithm: protonet does not take objects"),
        ({"ways": 2}, "ways: images have objects, of which an episode is of one"),
        ({"stream": "always"}, "stream: 'always' is not for detection"),
        ({"shrink": 0.0}, "shrink: must be > 0 and <= 1, got 0"),
        ({"val_classes": ()}, "val_classes: name one or more, as for the other"),
        ({"meta_test": "x"}, "test_classes: leave out it or meta_test"),
        ({"also": ("x",)}, "val_classes, test_classes: are of one data set without a split"),
        ({"split": "x"}, "leave out split"),
    ],
)
def test_what_objects_cannot_be_is_refused(tmp_path: Path, changes: dict, says: str) -> None:
    given = dataclasses.replace(OF_CELLS, data=str(write_cells(tmp_path / "s")))
    with pytest.raises(ConfigError, match=says):
        experiments.build(dataclasses.replace(given, **changes))


def test_classes_may_be_held_out_by_name(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "toy.npz")
    config = dataclasses.replace(
        CONFIG,
        data=str(path),
        ways=2,
        val_classes=("class0", "class3"),
        test_classes=("class8", "class1"),
    )
    made = experiments.build(config)
    assert made.split.classes == {
        "train": ("class2", "class4", "class5", "class6", "class7"),
        "val": ("class0", "class3"), "test": ("class8", "class1"),
    }  # fmt: skip
    assert drawn_classes(made, "test") == {"class1", "class8"}
