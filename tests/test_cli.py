"""The command line as its users meet it: a process, its streams and its exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

from medmeta_jax import cli, parsing, registry, verbs
from medmeta_jax.options import DataPrepare

from .conftest import write_cells, write_toy

TINY = [
    "--net.width", "4", "--net.depth", "2", "--image-size", "8", "--hyper.steps", "1",
    "--meta-batch", "2",
    "--val-episodes", "4", "--test-episodes", "6", "--queries", "2", "--augment", "flip",
]  # fmt: skip


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine classes of twelve images that can be told apart."""
    return write_toy(tmp_path_factory.mktemp("cli") / "toy.npz")


@pytest.fixture
def medmeta(tmp_path: Path):
    """Runs `medmeta` with its runs below the test's folder."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "medmeta_jax", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "MEDMETA_RUNS": str(tmp_path / "runs"), **environment},
        )

    return call


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The same in this process, for what ends before anything is trained: a new process takes two
    seconds to begin."""
    monkeypatch.setenv("MEDMETA_RUNS", str(tmp_path / "runs"))

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        code: object = 0
        with jax.numpy_dtype_promotion("standard"):  # as users have it
            try:
                cli.main([str(one) for one in arguments])
            except SystemExit as ending:
                code = ending.code
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(str(code or 0)), said.out, said.err)

    return call


def only_run(tmp_path: Path) -> Path:
    (run,) = (tmp_path / "runs").iterdir()
    return run


def record(run: Path) -> list[dict[str, object]]:
    """What a run wrote down, but for the time that it took."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "episodes_per_s"} for x in lines]


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


def test_train_then_eval(medmeta, inside, archive: Path, tmp_path: Path) -> None:
    done = medmeta("train", "--data", archive, *TINY, "--meta-steps", "6", "--json",
                   "--validate-every", "3")  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    names = [row["learner"] for row in summary["results"]]
    assert names == ["maml", "maml-untrained", "scratch", "raw-centroid"]
    row = summary["results"][1]
    assert {
        "learner", "data", "split", "ways", "shots", "queries", "episodes", "episodes_hash",
        "norm", "accuracy", "recall", "f1", "minus_maml",
    } <= row.keys()  # fmt: skip
    assert set(row["accuracy"]) == {"mean", "ci95"}
    assert (row["ways"], row["shots"], row["queries"], row["episodes"]) == (3, 1, 2, 6)
    assert len({r["episodes_hash"] for r in summary["results"]}) == 1
    assert len(summary["results"][0]["accuracy_by_step"]["mean"]) == 2
    first = summary["results"][0]
    for other in summary["results"][1:]:
        gap = other["accuracy"]["mean"] - first["accuracy"]["mean"]
        assert other["minus_maml"]["mean"] == pytest.approx(gap)
    assert 0.2 < first["pooled"]["auroc"]["mean"] <= 1
    taken = np.asarray(summary["confusion"]["counts"])
    assert taken.sum() + summary["confusion"]["absent"] == 6 * 3 * 2
    assert taken.trace() / (6 * 3 * 2) == pytest.approx(first["accuracy"]["mean"])
    honest = summary["calibration"]
    assert honest["temperature"] > 0
    assert honest["tasks"] == [2, 2]  # too few to promise anything: the set is every way
    assert honest["quantile"] is None
    assert honest["meta_test"]["covered"]["mean"] == 1
    assert honest["meta_test"]["set_size"]["mean"] == 3
    assert summary["seconds"].keys() == {"data", "compile", "train", "eval"}
    run = only_run(tmp_path)
    assert json.loads((run / "calibration.json").read_text()) == honest
    assert json.loads((run / "summary.json").read_text()) == summary
    assert yaml.safe_load((run / "config.yaml").read_text())["meta_steps"] == 6
    assert json.loads((run / "env.json").read_text())["versions"]["jax"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]

    again = medmeta("eval", run, "--json", "--baselines", "none")
    assert again.returncode == 0, again.stderr
    (same,) = json.loads(again.stdout)["results"]
    assert same["accuracy"] == summary["results"][0]["accuracy"]
    assert same["episodes_hash"] == row["episodes_hash"]

    with np.load(archive) as arrays:
        changed = {**arrays, "images": arrays["images"].copy()}
    changed["images"][-1, 0, 0] ^= 1
    config = yaml.safe_load((run / "config.yaml").read_text())
    np.savez(tmp_path / "changed.npz", **changed)
    config["data"] = str(tmp_path / "changed.npz")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert_refused(inside("eval", run), 3, "are not those of", "start a new run")

    complete = inside("train", "--resume", run)
    assert_refused(complete, 2, "resume", "is complete")


def test_compiled_programs_are_kept_where_jax_was_told(monkeypatch, tmp_path: Path) -> None:
    """Else in the user's cache folder."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("MEDMETA_DATA", str(tmp_path))
    try:
        verbs.enable_compilation_cache()
        assert {name: getattr(jax.config, name) for name in names} == before
        jax.config.update(names[0], None)
        verbs.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.mark.slow
def test_killed_and_resumed_is_bit_equal(medmeta, archive: Path, tmp_path: Path) -> None:
    """kill -9 in the middle; the resumed run ends with the numbers of an undisturbed one."""
    arguments = ["train", "--data", str(archive), *TINY, "--meta-steps", "800",
                 "--validate-every", "100", "--baselines", "none"]  # fmt: skip
    environment = {**os.environ, "MEDMETA_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "medmeta_jax", *arguments]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if line.startswith("step   3"):
            break
    child.kill()
    child.wait()
    run = only_run(tmp_path)
    assert not (run / "summary.json").exists()
    resumed = medmeta("train", "--resume", run, "--json")
    assert resumed.returncode == 0, resumed.stderr
    straight = medmeta(*arguments, "--json", MEDMETA_RUNS=str(tmp_path / "straight"))
    (other,) = (tmp_path / "straight").iterdir()

    assert record(run) == record(other)
    results = [json.loads(done.stdout)["results"] for done in (resumed, straight)]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 75, id="TERM"),
        pytest.param(signal.SIGINT, 130, id="INT", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_can_be_resumed(
    medmeta, archive: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = ["train", "--data", str(archive), *TINY, "--meta-steps", "1000000"]
    environment = {**os.environ, "MEDMETA_RUNS": str(tmp_path / "runs")}
    child = subprocess.Popen(
        [sys.executable, "-m", "medmeta_jax", *arguments],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in child.stderr:
        if line.startswith("step "):
            break
    time.sleep(0.3)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "medmeta train --resume" in err
    assert out == ""
    steps = [
        int(p.name) for p in (only_run(tmp_path) / "checkpoints").iterdir() if p.name.isdigit()
    ]
    lines = (only_run(tmp_path) / "metrics.jsonl").read_text().splitlines()
    assert max(steps) == json.loads(lines[-1])["step"]


@pytest.mark.slow
def test_bench_methods_to_a_table(medmeta, archive: Path, tmp_path: Path) -> None:
    """Two methods, one at a time; the second call finds the first's row."""
    task = ("--data", archive, "--image-size", "8", "--ways", "2", "--out", tmp_path / "out")
    call = ("bench", "methods", *task, "--json", "--shots")
    first = medmeta(*call, "1", "2", "--methods", "nearest_centroid")
    assert first.returncode == 0, first.stderr
    second = medmeta(*call, "1", "2", "--methods", "nearest_centroid", "scratch")
    assert "1 of 2 are done" in second.stderr
    found = json.loads(second.stdout)
    assert [(r["learner"], r["shots"]) for r in found["results"]] == [
        ("nearest_centroid", 1), ("scratch", 1), ("nearest_centroid", 2), ("scratch", 2),
    ]  # fmt: skip
    assert {"accuracy", "episodes_hash", "chosen", "norm"} <= found["results"][0].keys()
    assert "minus_nearest_centroid" in found["results"][1]
    assert "| scratch |" in second.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "plan.json", "rows", "results.json", "results.csv", "results.md",
    }  # fmt: skip
    other = medmeta(*call, "3", "--methods", "scratch")
    assert_refused(other, 2, "holds rows of another plan")


def test_usage_errors(medmeta, inside, archive: Path, tmp_path: Path) -> None:
    assert_refused(medmeta("trian"), 2, "no verb 'trian'", "did you mean train")
    assert_refused(inside("train", "--meta-stepz", "3"), 2, "--meta-steps")
    assert_refused(inside("train", "--algorithm", "mamal"), 2, "did you mean maml")
    assert_refused(inside("bench", "methods", "--methods", "mamal"), 2, "methods: no 'mamal'")
    gone = ("train", "--data", archive, "--init-from", tmp_path / "gone.npz")
    assert_refused(inside(*gone, *TINY), 3, "gone.npz: no such file of weights")
    assert_refused(
        inside("train", "--data", archive, "--hyper.inner-lr", "-1"), 2, "inner_lr must be > 0"
    )
    assert_refused(inside("train", "--preset", "omniglot"), 2, "names no data; add --data")
    assert_refused(inside("train", "--resume", "x", "--meta-steps", "3"), 2, "no other option")
    assert medmeta("--help").returncode == 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("verb", [("data", "list"), ("train", "--help"), ("-h",)])
def test_what_nobody_reads_is_no_error(verb: tuple[str, ...], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does, once it has its lines
    command = [sys.executable, "-m", "medmeta_jax", *verb]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_data_errors_leave_nothing_behind(inside, archive: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for name in "ab":
        (few / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(few / name / f"{i}.png")
    (tmp_path / "one").mkdir()
    shutil.copytree(few / "a", tmp_path / "one" / "a")
    empty = tmp_path / "empty"
    (empty / "a").mkdir(parents=True)
    np.savez(tmp_path / "keys.npz", pictures=np.zeros((2, 8, 8), np.uint8))
    cases = [
        (["--data", tmp_path / "nowhere"], ["nowhere: no such file or folder"]),
        (["--data", tmp_path / "one"], ["1 classes (a)", "cannot be split"]),
        (["--data", few], ["2 classes (a, b)", "--meta-test"]),
        (["--data", empty], ["empty/a: class folder without images"]),
        (["--data", tmp_path / "keys.npz"], ["keys.npz: needs the arrays images and labels"]),
        (["--data", archive, "--disjoint", "group"], ["names no groups", "use image"]),
        (
            ["--data", archive, "--meta-test", archive],
            ["images of test are on another side too (108)"],
        ),
        (["--data", archive, "--ways", "7"], ["7 ways need 7 classes, there are 3"]),
        (
            ["--data", archive, "--shots", "12"],
            ["'class0' has too few images: 12", "lower shots"],
        ),
    ]
    for arguments, words in cases:
        assert_refused(inside("train", *arguments), 3, *words)
    cut = few / "a" / "0.png"
    cut.write_bytes(cut.read_bytes()[:40])
    assert_refused(inside("train", "--data", few), 3, "a/0.png: not a readable image")
    looked = inside("data", "inspect", few)  # which lists it, and goes on
    assert looked.returncode == 0
    assert "a/0.png: not a readable image" in looked.stdout
    assert not (tmp_path / "runs").exists()


def test_runs_that_cannot_be_written_or_found(
    inside, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(inside("train", "--resume", tmp_path / "none"), 3, "no such run")
    (tmp_path / "other").mkdir()
    assert_refused(inside("eval", tmp_path / "other"), 3, "not a run directory")
    (tmp_path / "other" / "config.yaml").write_text(f"data: {archive}\nimage_size: 8\n")
    assert_refused(inside("eval", tmp_path / "other"), 3, "split.json: missing")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDMETA_RUNS", str(tmp_path / "file"))
    assert_refused(inside("train", "--data", archive, *TINY), 3, "MEDMETA_RUNS")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_run_with_a_message(medmeta, archive: Path, tmp_path: Path) -> None:
    """/dev/full stands for a disk without room: the metrics file is a link to it."""
    code = (
        "import sys, pathlib\nfrom medmeta_jax import cli, runs\n"
        "make = runs.create\n"
        "def full(*a):\n"
        "    run = make(*a)\n"
        "    run.metrics.symlink_to('/dev/full')\n"
        "    return run\n"
        "runs.create = full\n"
        "cli.main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--data", str(archive), *TINY],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "MEDMETA_RUNS": str(tmp_path / "runs")},
    )  # fmt: skip
    assert_refused(done, 1, "cannot be written", "No space left on device")


def test_small_verbs(
    medmeta, inside, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(inside("data", "list", "--json").stdout)
    assert set(found["sources"]) == {
        "anatomy", "brats", "chestxray", "dicom", "folder", "luna", "masks", "measured", "nifti",
        "npz", "phantom", "prepared", "tfds_sets", "voc",
    }  # fmt: skip
    told = medmeta("data", "list")  # what was asked for can be piped on
    assert told.stdout.splitlines()[0].startswith("anatomy ")
    assert told.stderr == ""
    found = json.loads(inside("data", "inspect", archive, "--json").stdout)
    assert (found["samples"], len(found["classes"])) == (108, 9)
    assert found["duplicates"]["exact"]["pairs"] == 0
    done = inside("data", "inspect", archive, "--out", tmp_path / "pictures")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pictures" / "contact_sheet.png").stat().st_size > 1000
    done = inside("doctor", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] is True
    monkeypatch.setenv("MEDMETA_RUNS", "/proc/nowhere")
    blocked = inside("doctor")
    assert blocked.returncode == 1
    assert "problem" in blocked.stdout


def test_dry_run_trains_nothing(inside, archive: Path, tmp_path: Path) -> None:
    done = inside("train", "--data", archive, *TINY, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parameters"] > 0
    assert found["config"]["net"]["width"] == 4
    assert not (tmp_path / "runs").exists()


def test_a_sources_own_options_are_flags_of_data_prepare(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"plane": "axial", "step": 1}
    monkeypatch.setattr(registry, "defaults", lambda folder, name, function: known)
    asked = [str(archive), "--out", "x"]
    given, read = parsing.parse_reading(
        DataPrepare, "data prepare", [*asked, "--read.plane", "coronal"], str(archive)
    )
    assert (given.source, given.out) == (str(archive), "x")
    assert read == {"plane": "coronal", "step": 1}
    monkeypatch.undo()
    read = parsing.parse_reading(DataPrepare, "data prepare", asked, str(archive))[1]
    assert read == {"slices": 4, "whole": False}


@pytest.mark.slow
def test_data_prepare_then_train(medmeta, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = medmeta("data", "prepare", archive, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["samples"], found["skipped"]) == (108, [])
    again = medmeta("data", "prepare", archive, "--out", out)
    assert "made in the same way" in again.stderr
    assert_refused(medmeta("data", "prepare", archive), 2, "out: say which folder")
    assert_refused(medmeta("data", "prepare", archive, "--out", out, "--image-size", "4"), 3,
                   "prepared otherwise")  # fmt: skip
    options = (*TINY, "--meta-steps", "2", "--baselines", "none", "--json")
    ways = [("--data", archive), ("--data", out, "--stream", "always")]
    both = [medmeta("train", *way, *options) for way in ways]
    assert "images     stay in their files" in both[1].stderr
    raw, prepared = (json.loads(done.stdout)["results"][0] for done in both)
    assert_refused(medmeta("train", *ways[0], "--stream", "always"), 2, "needs folders by `medmeta")
    for name in ("episodes_hash", "accuracy"):
        assert raw[name] == prepared[name]


@pytest.mark.slow
def test_detection_from_boxes_to_a_table(medmeta, archive: Path, tmp_path: Path) -> None:
    """Trained, judged again, and refused where there is nothing to find."""
    data = write_cells(tmp_path / "smears")
    options = ("--preset", "detection", "--val-classes", "platelet", "--test-classes", "wbc",
               "--shots", "1", "--image-size", "24", "--algorithm", "panet",
               "--net.width", "4", "--net.depth", "2",
               "--meta-steps", "2", "--meta-batch", "2", "--val-episodes", "4", "--queries", "2",
               "--test-episodes", "6", "--augment", "flip", "--baselines", "none")  # fmt: skip
    done = medmeta("train", "--data", data, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert "meta-train 1 classes 12 images" in done.stderr
    summary = json.loads(done.stdout)
    (row,) = summary["results"]
    assert (row["labels"], row["ways"], row["columns"][:2]) == ("objects", 1, ["cpm", "ap"])
    assert summary["objects"]["cpm"] == pytest.approx(row["pooled"]["cpm"]["mean"])
    assert "CPM of all images together is" in done.stderr
    assert "Over resampled" not in done.stderr  # of one kind there is nothing to resample
    run = only_run(tmp_path)
    (line,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"dice", "valid_cpm"} <= line.keys()
    again = json.loads(medmeta("eval", run, "--json", "--baselines", "none").stdout)
    assert again["results"][0]["cpm"] == row["cpm"]
    assert again["objects"] == summary["objects"]
    assert_refused(medmeta("train", "--data", archive, *options), 3, "neither boxes nor masks")


@pytest.mark.slow
def test_methods_of_detection_side_by_side(medmeta, tmp_path: Path) -> None:
    data = write_cells(tmp_path / "smears")
    done = medmeta("bench", "methods", "--data", data, "--task", "detection", "--backbone", "unet",
                   "--val-classes", "platelet", "--test-classes", "wbc", "--image-size", "24",
                   "--shots", "1", "--methods", "panet", "threshold", "--json",
                   "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["learner"]: row for row in json.loads(done.stdout)["results"]}
    assert rows.keys() == {"panet", "threshold"}
    assert rows["threshold"]["object_recall"]["mean"] == 1


@pytest.mark.slow
def test_a_split_is_written_and_trained_on(medmeta, archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    found = json.loads(medmeta("data", "split", archive, "--out", file, "--json").stdout)
    assert found["digest"] in medmeta("data", "split", archive, "--out", file).stderr
    sides = found["sides"]
    assert sum(side["images"] for side in sides.values()) == 108
    assert {side: len(facts["classes"]) for side, facts in sides.items()} == {
        "train": 9, "val": 9, "test": 9, "none": 9,
    }  # fmt: skip
    done = medmeta("train", "--data", archive, "--split", file, "--ways", 2, "--queries", 1,
                   "--image-size", 8, "--dry-run")  # fmt: skip
    assert f"meta-train 9 classes {sides['train']['images']} images" in done.stderr
    done = medmeta("train", "--data", archive, "--split", file, "--meta-test", archive)
    assert_refused(done, 2, "split: is of one data set")
    done = medmeta("train", "--data", archive, "--split", tmp_path / "absent.csv")
    assert_refused(done, 3, "absent.csv: no such file; make it by: medmeta data split")
    assert_refused(medmeta("data", "split", archive), 2, "out: say which file to write")
