"""What importing and making an environment loads, in a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rapgym

PACKAGE = Path(rapgym.__file__).parent
HEAVY = {
    "numba",
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


def test_importing_loads_none_of_our_modules_but_the_registration_of_the_ids() -> None:
    loaded_after(
        """
import sys
import rapgym
ours = {name for name in sys.modules if name.startswith("rapgym")}
assert ours == {"rapgym", "rapgym.envs", "rapgym.envs.registration"}, ours
"""
    )


@pytest.mark.parametrize("name", ["RAP-v0", "rapgym/RAP-KeptSet-v0"])
def test_importing_registers_the_ids_once(name: str) -> None:
    loaded_after(
        f"""
import importlib, gymnasium, rapgym
spec = gymnasium.spec({name!r})
importlib.reload(rapgym)
assert gymnasium.spec({name!r}) is spec
"""
    )


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


def test_the_version_is_that_of_the_installed_package() -> None:
    import importlib.metadata

    assert rapgym.__version__ == importlib.metadata.version("rapgym")
