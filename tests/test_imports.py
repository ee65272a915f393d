"""What importing and making an environment loads, in a fresh interpreter."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import rapgym
from rapgym.files import places, provenance

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


def test_importing_loads_the_ids_the_version_and_what_finds_the_folders_of_a_clone() -> None:
    loaded_after(
        """
import sys
import rapgym
ours = {name for name in sys.modules if name.startswith("rapgym")}
files = {f"rapgym.files{name}" for name in ("", ".clone", ".places", ".provenance")}
assert ours == {"rapgym", "rapgym.envs", "rapgym.envs.registration"} | files, ours
"""
    )


def test_an_environment_that_came_with_rapgym_loads_nothing_that_reads_raw_traces_or_logs() -> None:
    loaded_after(
        """
import sys
import gymnasium, rapgym
gymnasium.make("RAP-v0").reset(seed=0)
readers = {"rapgym.scenarios.build"} | {f"rapgym.workload.{name}" for name in ("own", "loaders", "servegen")}
assert not readers & set(sys.modules), readers & set(sys.modules)
"""
    )


@pytest.mark.parametrize(("words", "commands"), [("--help", set()), ("tables list", {"tables"})])
def test_a_command_loads_no_other_and_help_loads_none(words: str, commands: set[str]) -> None:
    loaded_after(
        f"""
import sys
from rapgym import cli
try:
    cli.main({words.split()!r})
except SystemExit:
    pass
loaded = {{name for name in cli.COMMANDS if f"rapgym.cli.{{name}}" in sys.modules}}
assert loaded == {commands!r}, loaded
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


# Says which modules touch data of the package while all of them are imported.
WATCHED = """
import importlib, json, os, sys

from rapgym.files import places

FOLDERS = [os.path.realpath(folder) + os.sep for folder in
           (places.TABLES, places.TRACES, places.TRAINED, places.PROFILES, places.RESULTS)]
EVENTS = ("open", "os.listdir", "os.scandir")
touched = {}

def watch(event, args):
    if event not in EVENTS or not isinstance(args[0], (str, os.PathLike)):
        return
    path = os.path.realpath(args[0]) + os.sep
    # Modules lie in folders of data too, and are found and read like any other.
    if path.startswith(tuple(FOLDERS)) and not path.endswith((".py" + os.sep, ".pyc" + os.sep)):
        frame = sys._getframe(1)
        while frame.f_code.co_name != "<module>":
            if frame.f_globals["__name__"].startswith("importlib._bootstrap"):
                return
            frame = frame.f_back
        touched.setdefault(frame.f_globals["__name__"], []).append(path)

sys.addaudithook(watch)
os.listdir(places.TABLES)
assert touched.pop("__main__"), "the hook sees folders"
seen = 0
for name in NAMES:
    try:
        importlib.import_module(name)
        seen += 1
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in LACKING:
            raise
assert seen > 100
print(json.dumps(touched))
"""


def test_importing_any_module_touches_no_data_of_the_package() -> None:
    paths = sorted({*provenance.code_files(), *places.STUDIES.rglob("*.py")})
    parts = [("rapgym", *places.inner(path).with_suffix("").parts) for path in paths]
    assert ("rapgym", "baselines", "forecast") in parts, "methods are imported too"
    names = [".".join(part).removesuffix(".__init__") for part in parts]
    extras = (*HEAVY, "hypothesis")
    lacking = [name for name in extras if importlib.util.find_spec(name) is None]
    code = WATCHED.replace("NAMES", repr(names)).replace("LACKING", repr(lacking))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


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
