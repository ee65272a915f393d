"""The mirror of raw traces and texts, for tests that need it; without one they are skipped."""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def raw_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `RAPGYM_DATA` names, else one beside the repository."""
    folder = Path(os.environ.get("RAPGYM_DATA") or BESIDE)
    if not (folder / "traces").is_dir():
        pytest.skip("needs the raw traces: set RAPGYM_DATA")
    monkeypatch.setenv("RAPGYM_DATA", str(folder))
    return folder
