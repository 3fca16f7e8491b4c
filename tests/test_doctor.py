"""What the doctor finds, and the remedy that it names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medmeta_jax import doctor
from medmeta_jax.doctor import ProblemError


def test_all_is_well_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMETA_RUNS", str(tmp_path / "runs"))
    found = doctor.doctor()
    assert found["ok"], found["checks"]
    assert "cpu" in found["checks"]["devices"]
    assert not (tmp_path / "runs").exists(), "nothing is left behind"


VERSIONS = {
    "too old": ("numpy>=99", r"numpy 2\S* installed, >=99 wanted; pip install \"numpy>=99\""),
    "missing": ("no-such>=1", r"no-such not installed, >=1 wanted; pip install \"no-such>=1\""),
    "any": ("no-such", r"no-such not installed, any wanted; pip install \"no-such\""),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_versions_out_of_bounds(name: str) -> None:
    line, message = VERSIONS[name]
    with pytest.raises(ProblemError, match=message):
        doctor.versions_in_bounds(["pillow>=1", line])


def test_an_extra_that_is_not_there_is_no_problem() -> None:
    found = doctor.versions_in_bounds(['no-such; extra == "cuda"', "numpy>=2"])
    assert found == "1 packages within their bounds"


def test_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Any:
        raise RuntimeError("Unable to initialize backend 'cuda'\nmore")

    with monkeypatch.context() as patched:
        patched.setattr(doctor.jax, "devices", broken)
        patched.setenv("JAX_PLATFORMS", "cuda")
        with pytest.raises(ProblemError, match="backend 'cuda'; unset JAX_PLATFORMS"):
            doctor.devices()
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with monkeypatch.context() as patched:
        patched.setattr(doctor, "NVIDIA", tmp_path)
        with pytest.raises(ProblemError, match=r"an NVIDIA GPU, .*; pip install \"medmeta_jax\[cu"):
            doctor.devices()
    with monkeypatch.context() as patched:
        patched.setattr(doctor.jax, "jit", lambda function: lambda a, b: 0 * a)
        with pytest.raises(ProblemError, match=r"is off by .*; reinstall jaxlib"):
            doctor.devices()


def test_folders_and_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProblemError, match=r"/proc/nowhere cannot be .*; set MEDMETA_RUNS to a"):
        doctor.writable(Path("/proc/nowhere"), "MEDMETA_RUNS")
    monkeypatch.setattr(
        doctor.shutil, "disk_usage",
        lambda place: SimpleNamespace(free=2**29 if place == tmp_path else 2**40),
    )  # fmt: skip
    with pytest.raises(ProblemError, match=r"0\.50 GiB free at .*deleting .*compiled"):
        doctor.room([tmp_path / "runs", Path("/")])
    assert doctor.room([Path("/")]) == "1024.0 GiB free at /"
