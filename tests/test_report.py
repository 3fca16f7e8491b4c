"""A report is made of what a run left, stands alone, and says what the run says."""

from __future__ import annotations

import csv
import html
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from medmeta_jax import cli, console, registry
from medmeta_jax.report import _loaded as loaded, _make as report, _page as pages
from medmeta_jax.runs import Run, RunError

from .tiny_run import copied, train


@pytest.fixture(scope="module")
def both(trained_once: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two runs on the same episodes; one has learned a policy."""
    plain, other = (tmp_path_factory.mktemp(name) for name in ("plain", "other"))
    policy: dict[str, Any] = {"policy": ("noise", "brighten"), "baselines": "some"}
    return copied(trained_once, plain), train(other, **policy)


class Reader(html.parser.HTMLParser):
    """What a page holds, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.texts: list[str] = []
        self.pictures = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("data:image/png"):
                self.fetched.append(f"{tag} {value}")
        self.pictures += tag == "img"
        assert tag != "script"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_training_leaves_a_report(both: tuple[str, str]) -> None:
    """Whole, well formed, without anything to fetch, and with the numbers of the summary."""
    run = Run(Path(both[1]))
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    read = Reader(text)
    assert read.open == []
    assert read.fetched == []
    summary = json.loads(run.summary.read_text())
    for row in summary["results"]:
        assert console.percent(row["accuracy"]) in read.texts
    assert summary["results"][0]["episodes_hash"] in text
    plots = {path.stem for path in run.plots.glob("*.svg")}
    expected = {"rows", "curves", "inner_steps", "confusion", "reliability", "policy"}
    assert plots == expected == set(registry.names("report")) - {"shots"}  # see below
    assert read.pictures == len(plots) + 2  # and the episodes, and the data
    for stem in plots:
        assert Image.open(run.plots / f"{stem}.png").size[0] > 300
        assert "<svg" in (run.plots / f"{stem}.svg").read_text()


def test_numbers_behind_the_plots_are_the_runs(both: tuple[str, str]) -> None:
    run = loaded.read(both[1])

    def rows(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((run.run.plots / f"{name}.csv").open()))

    drawn = {row["learner"]: float(row["accuracy"]) for row in rows("rows")}
    assert drawn == {r["learner"]: r["accuracy"]["mean"] for r in run.summary["results"]}
    assert [float(row["loss"]) for row in rows("curves")] == [r["loss"] for r in run.metrics]
    shares = {row["op"]: float(row["share"]) for row in rows("policy")}
    assert shares == pytest.approx(run.summary["policy"]["share"])
    counts = np.asarray([int(row["queries"]) for row in rows("confusion")])
    assert counts.sum() == np.asarray(run.summary["confusion"]["counts"]).sum()
    told = sum(int(row["queries"]) for row in rows("reliability"))
    assert told == 2 * counts.sum()  # with and without the temperature
    means = {name: scores.mean() for name, scores in run.scores.items()}
    assert means == pytest.approx({name: drawn[name] for name in means})


def test_several_numbers_of_shots_are_kept_and_drawn(
    both: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """On the queries of the most; the plot is in the run's next report."""
    with jax.numpy_dtype_promotion("standard"):
        cli.main(["eval", both[0], "--shots", "2", "1", "--baselines", "none", "--json"])
    said = capsys.readouterr()
    results = json.loads(said.out)["results"]
    assert [(row["learner"], row["shots"]) for row in results] == [("anil", 1), ("anil", 2)]
    assert len({row["episodes_hash"] for row in results}) == 1
    run = loaded.read(both[0])
    assert results[1]["accuracy"] == run.first["accuracy"]  # two are the run's own
    assert console.percent(results[0]["accuracy"]) in said.err
    report.make([both[0]])
    drawn = list(csv.DictReader((run.run.plots / "shots.csv").open()))
    assert [float(row["accuracy"]) for row in drawn] == [r["accuracy"]["mean"] for r in results]
    assert [row["shots"] for row in drawn] == ["1", "2"]
    with pytest.raises(SystemExit):
        cli.main(["eval", both[0], "--shots", "0", "1"])
    assert "shots: must be >= 1, got 0" in capsys.readouterr().err


def test_runs_side_by_side_are_paired(both: tuple[str, str], tmp_path: Path) -> None:
    one, other = (loaded.read(folder) for folder in both)
    found = loaded.difference(other, one)
    own = other.scores["anil"] - one.scores["anil"]
    assert found is not None
    assert found["mean"] == pytest.approx(own.mean())
    where, folder = report.make(both, tmp_path / "two.html")
    text = where.read_text()
    assert console.percent(found, sign=True) in Reader(text).texts
    assert folder == tmp_path / "two_plots"
    assert (folder / "rows.csv").exists()
    elsewhere = one._replace(
        summary={**one.summary, "results": [{**one.first, "episodes_hash": "x"}]}
    )
    assert loaded.difference(other, elsewhere) is None
    assert "other episodes" in pages.page([one, elsewhere], ())


def test_names_are_not_trusted(both: tuple[str, str], tmp_path: Path) -> None:
    """A class named as a script stays text."""
    run = loaded.read(both[0])
    names = [f"<script>{i}</script>" for i in range(3)]
    confusion = {**run.summary["confusion"], "classes": names}
    text = pages.page([run._replace(summary={**run.summary, "confusion": confusion})], ())
    assert "&lt;script&gt;0" in text
    assert Reader(text).open == []


def test_the_command_line(
    both: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    cli.main(["report", *both, "--out", str(out), "--json"])
    assert json.loads(capsys.readouterr().out)["report"] == str(out)
    for arguments, message in (
        (list(both), "out: several runs have no folder in common"),
        ([], "report: name a run"),
        ([str(tmp_path)], "not a run directory"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["report", *arguments])
        assert message in capsys.readouterr().err


def test_what_is_damaged_or_unfinished_is_refused(both: tuple[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(both[0], copy, ignore=shutil.ignore_patterns("checkpoints"))
    run = Run(copy)
    run.scores.write_text("anil\nx\n")
    with pytest.raises(RunError, match=r"scores\.csv: holds what is no number"):
        loaded.read(str(copy))
    run.scores.unlink()  # as of a run by an older version
    run.data.unlink()
    assert report.make([str(copy)])[0].exists()
    run.metrics.write_text("{")
    with pytest.raises(RunError, match=r"metrics\.jsonl: not JSON"):
        loaded.read(str(copy))
    run.summary.unlink()
    with pytest.raises(RunError, match="is not complete; go on with: medmeta train --resume"):
        loaded.read(str(copy))


def test_a_report_needs_no_jax(both: tuple[str, str], tmp_path: Path) -> None:
    code = "import sys; from medmeta_jax import cli; cli.main(sys.argv[1:]); "
    code += "print('jax' in sys.modules)"
    arguments = ["report", both[0], "--out", str(tmp_path / "r.html")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "False"


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_phones_and_desktops(both: tuple[str, str], width: int, tmp_path: Path) -> None:
    """Nothing is wider than the window but tables and code, which scroll by themselves."""
    assert BROWSER is not None
    page = html.escape((Path(both[1]) / "report.html").read_text(encoding="utf-8"))
    # In a frame, since a window is not made as narrow as a phone.
    probe = (
        f'<iframe id="frame" style="width: {width}px; border: 0" srcdoc="{page}"></iframe>'
        "<script>onload = () => { document.title = 'width ' + document.getElementById('frame')"
        ".contentDocument.documentElement.scrollWidth }</script>"
    )
    (tmp_path / "p.html").write_text(probe, encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900",
         "--virtual-time-budget=2000", "--dump-dom", str(tmp_path / "p.html")],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<title>width (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= width
