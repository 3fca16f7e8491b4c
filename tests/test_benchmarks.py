"""The benchmarks' own arithmetic: what is timed, and how it is put into tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    breakdown,
    case_study,
    held_out_types,
    memory,
    memory_use,
    modalities,
    report,
    rotation,
    scaling,
    streaming,
)
from benchmarks.workloads import WORKLOADS, Arrays, Engine, gflop, make_arrays, make_learner
from medmeta_jax import parallel
from medmeta_jax.config import check, load
from medmeta_jax.data import prepared
from medmeta_jax.data.phantom_lesions import TYPES
from medmeta_jax.data.pool import Pool
from medmeta_jax.types import Episode, Examples

TINY = dataclasses.replace(WORKLOADS["A"], widths=(4, 4), size=8, meta_batch=2, steps=1, queries=2)
FACTS: dict[str, Any] = {
    "machine": {"processor": "P", "threads": 2, "backend": "cpu"}, "versions": {"jax": "0"},
}  # fmt: skip


def episode_of(arrays: Arrays, index: int) -> Episode:
    x_s, y_s, x_q, y_q = (jnp.asarray(part[index]) for part in arrays)
    there = [jnp.ones(len(y), bool) for y in (y_s, y_q)]
    return Episode(Examples(x_s, y_s, there[0]), Examples(x_q, y_q, there[1]), jnp.arange(5))


@pytest.mark.slow
def test_a_step_takes_the_episodes_that_it_says() -> None:
    """What a baseline is given to compute is what the engine computes."""
    arrays, key = make_arrays(TINY), jax.random.key(0)
    engine = Engine(TINY, arrays, mesh=parallel.task_mesh(jax.devices()[:1]))
    learner, step = make_learner(TINY), jnp.zeros((), jnp.int32)
    params = jax.tree.map(jnp.copy, engine.state.params)  # the state is donated
    loss = jax.jit(lambda episode: learner.loss(params, episode, key, step)[1].loss)
    losses = [float(loss(episode_of(arrays, i))) for i in range(TINY.meta_batch)]
    assert abs(losses[0] - losses[1]) > 1e-3
    taken = engine.next_episodes()
    np.testing.assert_allclose(engine.run(), np.mean([losses[i] for i in taken]), rtol=1e-4)


def test_the_arithmetic_of_a_workload() -> None:
    """Conv4-64 on 28 x 28, by hand: convolutions on 28, 14, 7 and 3 pixels, 64 channels."""
    forward = 2 * 9 * 64 * (28**2 * 1 + (14**2 + 7**2 + 3**2) * 64)
    # Five steps of a gradient and its derivative (9 passes) on 5 images, 3 passes on 75 queries.
    assert gflop(WORKLOADS["A"]) == pytest.approx((5 * 9 * 5 + 3 * 75) * forward / 1e9)


def test_operations_are_told_apart_by_what_they_contain() -> None:
    """Of a compiled program's text; what contains others is left out."""
    program = """HloModule m

%inside.1 (p: f32[2,2]) -> f32[2,2] {
  %p = f32[2,2]{1,0} parameter(0)
  ROOT %dot.9 = f32[2,2]{1,0} dot(%p, %p), lhs_contracting_dims={1}
}

ENTRY %main (a: f32[2,2]) -> (f32[2,2], s32[]) {
  %a = f32[2,2]{1,0} parameter(0)
  %fused.1 = f32[2,2]{1,0} fusion(%a), kind=kCustom, calls=%inside.1
  %dot.2 = f32[2,2]{1,0} dot(%a, %a), lhs_contracting_dims={0}
  %add.3 = f32[2,2]{1,0} add(%a, %dot.2)
  %while.4 = (f32[2,2]{1,0}, s32[]) while(%a), condition=%c, body=%b
  ROOT %psum = f32[4]{0} all-reduce(%a), to_apply=%sum
}
"""
    found = breakdown.kinds(program)
    assert found["fused.1"] == "dot, fused or by YNN"
    assert found["dot.2"] == "dot, by itself"
    assert found["add.3"] == "additions and other element-wise work"
    assert found["psum"] == "sum over devices, with waiting"
    assert "while.4" not in found


def test_memory_that_is_taken_is_seen() -> None:
    if not memory_use.RESET.exists():
        pytest.skip("only Linux lets a process reset its peak")
    found = memory_use.peak_mb(lambda: np.ones(64 * 2**20, np.uint8).sum())
    assert 60 < found < 100


def test_tables_hold_every_measurement() -> None:
    row = {"name": "medmeta_jax", "episodes_per_s": 2.5, "range": [2.0, 3.0], "peak_mb": None,
           "compile_s": 1.0}  # fmt: skip
    work = {
        "about": "Z", "meta_batch": 4, "gflop_per_episode": 1.0, "rows": [row],
        "left_out": {"other": "why"}, "ratio_to_fastest_torch": None, "ratio_to_naive": 3.0,
        "share_of_roof": 0.5,
    }  # fmt: skip
    text = report.throughput_table({**FACTS, "roof_gflops": 9.0, "workloads": {"Z": work}})
    assert "| medmeta_jax | 2.50 (2.00 to 3.00) | - | 1.0 |" in text
    assert "To the fastest PyTorch: -; to the naive form: 3.0" in text
    assert "Left out: other (why)." in text
    cells = [
        {"order": order, "steps": k, "peak_mb": m * k}
        for order, m in (("mixed", 1.0), ("torch loop", 9.0))
        for k in (1, 20)
    ]
    lines = memory.table({**FACTS, "rows": cells}).splitlines()
    assert lines[-2:] == ["| mixed | 1 | 20 |", "| torch loop | 9 | 180 |"]
    rows = [
        {"devices": n, "processes": 1, "episodes_per_s": 2.0 * n, "range": [n, 3 * n],
         "compile_s": 1.0}
        for n in (1, 2)
    ]  # fmt: skip
    assert "| 2 | 1 | 4.00 (2.00 to 6.00) | 2.00 | 1.0 |" in scaling.table({**FACTS, "rows": rows})


def test_what_streaming_is_compared_with_reads_the_same_images(tmp_path: Path) -> None:
    folder = streaming.write(tmp_path, 30, 8, 3)
    images = prepared.open_samples(str(folder), image_size=8).images.read()
    files, places = streaming.Files(images), [7, 0, 29]
    np.testing.assert_array_equal([files[place] for place in places], images[places])
    for by_tfds in (False, True):
        records = streaming.Records(folder, 8, 30, by_tfds=by_tfds)
        np.testing.assert_array_equal(records.__getitems__(places), images[places])
    step = {
        "learner": "maml", "resident_ms": 10.0, "streamed_ms": 11.0, "cost": 0.1,
        "ranges_ms": {"resident": [9.0, 12.0], "streamed": [10.5, 11.5]},
    }  # fmt: skip
    rows = [{"name": "X", "images_per_s": 4.0, "range": [3.0, 5.0]}]
    text = streaming.table({**FACTS, "workers": 2, "steps": [step], "reading": {"Z": rows}})
    assert "| maml | 10.0 (9.0 to 12.0) | 11.0 (10.5 to 11.5) | 10.0% |" in text
    assert text.endswith("| X | 4 (3 to 5) |")


@pytest.mark.parametrize("task", rotation.OF)
def test_each_data_set_is_judged_once_and_never_trained_on_then(task: str) -> None:
    turned = rotation.OF[task]
    turns = [rotation.config_of(turned, judged, Path("data")) for judged in turned.domains]
    assert [turn.meta_test for turn in turns] == [f"data/{name}" for name in turned.domains]
    for turn in turns:
        every = {turn.data, *turn.also, turn.meta_val, turn.meta_test}
        assert len(every) == len(turned.domains)
        assert turn.task == ("segmentation" if task == "segmentation" else "auto")
    if task == "classification":
        assert turns[3].meta_val == "data/blood_cells"
        assert (turns[3].data, *turns[3].also) == ("data/brain_tumor_mri", "data/chest_xray")
        assert turns[3].ways == 3


def test_the_rotations_table_is_ordered_by_the_mean_and_holds_what_all_have() -> None:
    def row(learner: str, dice: float, shots: int = 1) -> dict[str, Any]:
        return {
            "learner": learner, "shots": shots, "episodes": 9, "episodes_hash": "ab",
            "dice": {"mean": dice, "ci95": 0.01}, "columns": ["dice"], "labels": "masks",
        }  # fmt: skip

    found = {"x": [row("a", 0.5), row("b", 0.4)], "y": [row("a", 0.3), row("b", 0.6), row("c", 1)]}
    lines = rotation.table(found).splitlines()
    assert lines[0] == "Dice, 1-shot, 9 episodes each (ab, ab)"
    assert lines[-2:] == [
        "| b | 40.0 ± 1.0 | 60.0 ± 1.0 | 50.0 |",
        "| a | 50.0 ± 1.0 | 30.0 ± 1.0 | 40.0 |",
    ]
    of_classes = {
        name: [{**one, "labels": "classes", "ways": 3} for one in rows]
        for name, rows in found.items()
    }
    assert rotation.table(of_classes).startswith("Dice, 3-way 1-shot, 9 episodes each (ab, ab)")


def test_the_case_study_holds_out_each_type_once() -> None:
    judged: list[str] = []
    for turn in range(case_study.TURNS):
        config = check(case_study.config_of(case_study.NETWORKS["unet"], turn, 3))
        assert len({*config.val_classes, *config.test_classes}) == 4
        assert (config.read["seed"], config.seed) == (3, 3)
        assert config.read["d_prime"] == 40  # of the protocol, and never another
        judged += config.test_classes
    assert sorted(judged) == sorted(list(TYPES)[:10])


def test_the_preset_of_the_case_study_is_its_first_turn() -> None:
    preset = check(load("case-study", None))
    turn = check(case_study.config_of(case_study.NETWORKS["unet"], 0, 0))
    assert turn.read.pop("seed") == 0  # the phantom's own
    assert preset == dataclasses.replace(turn, net={**turn.net, "width": case_study.BUDGET.width})


def test_the_case_study_says_what_a_row_lacks_of_the_goal() -> None:
    def row(accuracy: float, **more: float) -> dict[str, Any]:
        scores = {"accuracy": accuracy, "recall": 0.9, "f1": 0.88, "presence_accuracy": 1.0, **more}
        return {
            **{name: {"mean": value, "ci95": 0.01} for name, value in scores.items()},
            "episodes_hash": "abc",
        }

    found = {
        1: {"a": row(0.92, dice=0.5), "b": row(0.8)},
        3: {"a": row(0.9, dice=0.7), "b": row(0.7)},
    }
    head, _, first, second = case_study.table(found).splitlines()[:4]
    assert head.endswith("| goal | turn 1 | turn 3 |")
    assert first.startswith("| a | 91.0 | 90.0 | 88.0 | 60.0 | 100.0 | reached | 92.0 ± 1.0 |")
    assert second.startswith("| b | 75.0 | 90.0 | 88.0 | - | 100.0 | accuracy -15.0 | 80.0 ± 1.0 |")


def test_of_modalities_every_subset_is_there_and_the_unseen_has_the_others_scale() -> None:
    every = list(modalities.subsets(3))
    assert len(set(every)) == 7
    assert all(any(there) for there in every)
    numbers = jnp.arange(3.0)
    pool: Any = prepared_pool()._replace(
        x=jnp.zeros((2, 4, 4, 3), jnp.uint8), shift=numbers, scale=10 * numbers,
        present=jnp.asarray([[True, True, False], [True, True, True]]),
    )  # fmt: skip
    found = modalities.unseen(pool, 0)
    assert found.shift.tolist() == [1.5, 1, 2]
    assert found.scale.tolist() == [15, 10, 20]
    shown = modalities.showing(pool, [False, True, True]).present
    assert shown.tolist() == [[False, True, False], [False, True, True]]


def prepared_pool() -> Pool:
    """A pool of which nothing is looked at."""
    nothing = jnp.zeros(1)
    return Pool(*[nothing] * 10)


def test_tables_of_modalities_by_hand() -> None:
    def of(mean: float) -> dict[str, float]:
        return {"mean": mean, "ci95": 0.01}

    found = {
        "t1": {
            "dropout": of(0.6), "none": of(0.3), "gain": of(0.3),
            "by_seed": {"dropout": [0.5, 0.7], "none": [0.25, 0.35]},
        },
        "t1 + t2": {
            "dropout": of(0.7), "none": of(0.71), "gain": of(-0.01),
            "by_seed": {"dropout": [0.8, 0.6], "none": [0.72, 0.7]},
        },
    }  # fmt: skip
    said = modalities.subsets_table(found)
    assert "| t1 | 60.0 ± 1.0 | 30.0 ± 1.0 | +30.0 ± 1.0 |" in said
    assert said.endswith(
        "The worst subset has 50.0, 60.0 with dropout and 25.0, 35.0 without, by training seed; "
        "all there have 80.0, 60.0 and 72.0, 70.0."
    )


def test_rows_are_compared_with_the_first_by_episode() -> None:
    dice = {"maml": [0.5, 0.7, 0.9], "finetune, 5 steps": [0.4, 0.6, 0.8]}
    found = report.compared({name: {1: np.asarray(of)} for name, of in dice.items()})
    assert found["finetune, 5 steps"]["1"]["first_minus"] == pytest.approx({"mean": 0.1, "ci95": 0})
    table = report.by_shots(found).splitlines()
    assert table[0] == "| learner | 1-shot | maml minus it, 1-shot |"
    assert table[2].endswith("|  |")
    assert table[3].startswith("| finetune, 5 steps | 60.0 ± ")
    assert table[3].endswith(" | +10.0 ± 0.0 |")


def test_held_out_types_are_of_no_other_side() -> None:
    config = held_out_types.config_of()
    assert config.val_classes == ("9", "10", "11", "12")
    assert config.test_classes == ("13", "14", "15", "16")
