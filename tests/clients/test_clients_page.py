"""Learners of others take the environments: each program of docs/clients.md runs and holds."""

import re
from pathlib import Path
from typing import Any

import pytest

# What clients warn of is their business.
pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text("utf-8")
PROGRAMS = {
    section.partition("\n")[0]: code
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[:1]
}

# What each needs beside the package and PyTorch, as Python imports it.
NEEDS = {
    "Gymnasium": ("PIL", "moviepy"),
    "Stable-Baselines3": ("stable_baselines3", "sb3_contrib", "PIL", "moviepy"),
    "RL Zoo": ("rl_zoo3",),
    "Tianshou": ("tianshou.highlevel.experiment",),
    "TorchRL": ("torchrl",),
    "RLlib": ("ray.rllib",),
    "Minari": ("minari", "h5py", "jax"),
    "CleanRL": ("torch",),
}


def test_every_client_of_the_page_has_a_program() -> None:
    assert [*PROGRAMS] == [*NEEDS]
    assert all("assert " in code or "learn(" in code for code in PROGRAMS.values())


@pytest.mark.clients
@pytest.mark.parametrize("client", NEEDS)
def test_a_client_takes_the_environments(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in NEEDS[client]:
        pytest.importorskip(
            package, reason=f"{client} is not installed: make clients", exc_type=ImportError
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    found: dict[str, Any] = {"__name__": "program"}
    exec(PROGRAMS[client], found)
    if "videos" in PROGRAMS[client]:
        (video,) = (tmp_path / "videos").glob("*.mp4")
        assert video.stat().st_size > 1000
