"""What importing and making an environment loads, in a fresh interpreter; and the public names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rapgym

PACKAGE = Path(rapgym.__file__).parent
HEAVY = {
    "pandas",
    "plotly",
    "pooch",
    "pyarrow",
    "pynvml",
    "ray",
    "sb3_contrib",
    "stable_baselines3",
    "torch",
    "transformers",
}


def loaded_after(code: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter holds after `code`."""
    report = "import json, sys; print(json.dumps([m for m in sys.modules if '.' not in m]))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{report}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import rapgym",
        "from rapgym import cli; cli.parser()",
        "import gymnasium, rapgym\n"
        "env = gymnasium.make('RAP-v0', scenario='chat-beside-code')\n"
        "env.reset(seed=0)\n"
        "env.step(env.action_space.sample())",
        "import gymnasium, rapgym\n"
        "envs = gymnasium.make_vec('RAP-Counts-v0', 2, scenario='chat-beside-code')\n"
        "envs.reset(seed=0)",
    ],
    ids=["import", "command line", "one environment", "vector of environments"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert not loaded_after(code) & HEAVY


def test_importing_opens_no_data_file_of_the_package() -> None:
    loaded_after(
        f"""
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import rapgym
ours = [path for path in opened if path.startswith({str(PACKAGE)!r})]
assert ours, "the hook saw the modules"
assert all(path.endswith((".py", ".pyc")) or ".pyc." in path for path in ours), ours
"""
    )


def test_public_names_are_those_of_all() -> None:
    public = {
        name
        for name, value in vars(rapgym).items()
        if not name.startswith("_") and not hasattr(value, "__path__") and not _is_module(value)
    }
    assert public | {"__version__"} == set(rapgym.__all__)
    assert all(hasattr(rapgym, name) for name in rapgym.__all__)


def _is_module(value: object) -> bool:
    return isinstance(value, type(sys))


def test_the_version_is_that_of_the_installed_package() -> None:
    import importlib.metadata

    assert rapgym.__version__ == importlib.metadata.version("rapgym")


def test_importing_rivals_lists_no_folder_of_data() -> None:
    loaded_after(
        f"""
import os, sys
listed = []
def hook(event, args):
    if event in ("os.listdir", "os.scandir"):
        listed.append(str(args[0]))
sys.addaudithook(hook)
import rapgym.rivals.rivals
data = [{str(PACKAGE)!r} + "/" + name for name in ("tables", "profiles", "trained")]
assert not [path for path in listed if path.startswith(tuple(data))], listed
rapgym.rivals.rivals.every()
assert data[0] in listed, "the hook hears it"
"""
    )
