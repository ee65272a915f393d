"""The package as a user gets it: a clone without symbolic links, what is built from it, and installed."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from rapgym.files import places, provenance
from rapgym.guard import landlock
from rapgym.policies import registry

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parents[1]
PRIVATE = {"PYTHONPATH", "RAPGYM_DATA", "RAPGYM_CACHE", "PYTHONWARNINGS"}
LIMITS_BYTES = {
    "wheel": 10 << 20,
    "sdist": 48 << 20,
}  # the sdist has every result and trained policy
LICENCES = {"LICENSE", "traces/licenses/CC-BY-4.0.txt", "traces/licenses/MIT-BurstGPT_test.txt"}
SAMPLE = (
    "files/test_clone",
    "test_layers",
    "bench/test_score",
    "workload/test_series",
    "policies/test_trained",
    "guard/test_watchdog",
)  # tests that read much and are quick


def outside(*command: str | Path, folder: Path) -> str:
    """Run a command in `folder`, with nothing of this clone in its environment; its output."""
    environment = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the tree as it stands, made as Windows makes one by default: a link is a text file."""
    folder = tmp_path_factory.mktemp("cloned")
    tree, found = folder / "tree", folder / "rapgym"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=_not_committed)
    git = ("git", "-c", "user.name=tests", "-c", "user.email=tests@localhost")
    outside(*git, "init", "--quiet", folder=tree)
    outside(*git, "add", "--all", folder=tree)
    outside(*git, "commit", "--quiet", "-m", "the tree", folder=tree)
    outside(*git, "-c", "core.symlinks=false", "clone", "--quiet", tree, found, folder=folder)
    return found


def _not_committed(folder: str, names: list[str]) -> set[str]:
    """What git need not look at; the rest of what is not committed .gitignore names."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")(
        folder, names
    )
    own = {"results", "runs"} & {*names} if Path(folder) == ROOT else set()
    return {*ignored, *own} - {".gitattributes", ".gitignore"}


@pytest.fixture(scope="module")
def built(cloned: Path) -> dict[str, Path]:
    """The sdist, and the wheel that is built from it."""
    dist = cloned.parent / "dist"
    python_build = (sys.executable, "-m", "build", "--no-isolation")
    outside(*python_build, "--outdir", dist, cloned, folder=cloned.parent)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def unpacked(built: dict[str, Path]) -> Path:
    """The tree of the sdist."""
    folder = built["sdist"].parent / "unpacked"
    with tarfile.open(built["sdist"]) as sdist:
        sdist.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


@pytest.fixture(scope="module")
def names(built: dict[str, Path]) -> set[str]:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        return {name for name in wheel.namelist() if not name.endswith("/")}


def environment(folder: Path, *wanted: str | Path, beside: Path | None = None) -> Path:
    """A new environment with `wanted` and what it depends on; its folder of programs.

    Args:
        beside: the programs of another, whose packages this one sees as its own.
    """
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    if beside:
        line = f"{_packages(beside)}\n"
        (_packages(programs) / "beside.pth").write_text(line, encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet")
    outside(*pip, "-c", ROOT / "constraints.txt", *wanted, folder=folder)
    return programs


def _packages(programs: Path) -> Path:
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(outside(programs / "python", "-c", where, folder=programs).strip())


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with what rapgym depends on, without rapgym."""
    folder = tmp_path_factory.mktemp("dependencies")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield environment(folder / "env", *project["dependencies"])
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Use:
    """One way to use the package."""

    programs: Path  # of the environment
    folder: Path  # where one works
    package: Path  # the folder `rapgym`
    holder: Path  # of `baselines/` and `traces/`


WAYS = ("a clone", "a wheel", "an editable install", "an editable install without isolation")


@pytest.fixture(scope="module")
def uses(
    cloned: Path,
    built: dict[str, Path],
    dependencies: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Use]]:
    """Each way, all with the same dependencies; pip finds that they are those that are wanted."""
    folder = tmp_path_factory.mktemp("uses")
    wheel = environment(folder / "wheel", built["wheel"], beside=dependencies)
    editable = environment(folder / "editable", "-e", cloned, beside=dependencies)
    bare = environment(folder / "bare", "setuptools", beside=dependencies)
    bare = environment(folder / "bare", "--no-build-isolation", "-e", cloned, beside=dependencies)
    package = _packages(wheel) / "rapgym"
    yield dict(
        zip(
            WAYS,
            (
                Use(dependencies, cloned, cloned / "rapgym", cloned),
                Use(wheel, folder, package, package),
                Use(editable, folder, cloned / "rapgym", cloned),
                Use(bare, folder, cloned / "rapgym", cloned),
            ),
            strict=True,
        )
    )
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def installed(uses: dict[str, Use]) -> Path:
    return uses["a wheel"].programs


def test_the_wheel_has_one_top_level_package(names: set[str]) -> None:
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"rapgym"}


def test_the_wheel_has_every_file_of_the_package(names: set[str], cloned: Path) -> None:
    """Modules, tables, series of the scenarios, settings of methods: all that is committed."""
    committed = {PurePosixPath(line) for line in _committed(cloned)}
    inside = {path for path in committed if path.parts[0] == "rapgym"}
    inside |= {"rapgym" / path for path in committed if path.parts[0] in ("baselines", "traces")}
    expected = {
        str(path)
        for path in inside
        # Of the trained policies the wheel has the best method's alone; licences lie in its metadata.
        if ("trained" not in path.parts or "hindsight" in path.parts)
        and "licenses" not in path.parts
        # Studies, and what was published, stay in the repository.
        and path.parts[1] != "studies"
        and path.parts[1:3] != ("baselines", "results")
    }
    assert {name for name in names if name.startswith("rapgym/")} == expected
    assert any(re.fullmatch(r"rapgym/tables/[^/]+\.csv\.gz", name) for name in names)
    assert any(re.fullmatch(r"rapgym/traces/[^/]+\.csv\.gz", name) for name in names)
    assert "rapgym/traces/README.md" in names, "attribution travels with the series"
    assert "rapgym/baselines/__init__.py" in names


def _committed(cloned: Path) -> list[str]:
    return outside("git", "ls-files", folder=cloned).splitlines()


def test_the_wheel_has_the_licences_of_what_its_series_are_made_of(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        folder = metadata.removesuffix("METADATA") + "licenses/"
        held = {
            name.removeprefix(folder): wheel.read(name).decode()
            for name in wheel.namelist()
            if name.startswith(folder)
        }
        told = wheel.read(metadata).decode()
    assert held.keys() == LICENCES
    assert all((ROOT / name).read_text(encoding="utf-8") == text for name, text in held.items())
    sources = {licence for path in places.TRACES.glob("*.csv.gz") for licence in _licences(path)}
    assert sources == {"Apache-2.0", "CC-BY-4.0", "MIT"}
    assert f"License-Expression: {' AND '.join(sorted(sources))}\n" in told


def _licences(series: Path) -> set[str]:
    """Of the sources that the first line of a series names."""
    with gzip.open(series, "rt", encoding="utf-8") as file:
        origin = json.loads(file.readline().removeprefix("#"))["origin"]
    return {source["licence"] for source in origin["sources"].values()}


def test_a_wheel_of_the_clone_is_that_of_the_sdist(cloned: Path, built: dict[str, Path]) -> None:
    dist = cloned.parent / "direct"
    build = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", dist, cloned)
    outside(*build, folder=cloned.parent)
    (direct,) = dist.glob("*.whl")
    assert _sums(direct) == _sums(built["wheel"])


def _sums(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {each.filename: each.CRC for each in archive.infolist()}


def test_the_package_is_small(built: dict[str, Path]) -> None:
    sizes = {name: path.stat().st_size for name, path in built.items()}
    assert {name for name, size in sizes.items() if size >= LIMITS_BYTES[name]} == set()


def test_the_sdist_has_what_a_clone_has(cloned: Path, unpacked: Path) -> None:
    """Once, and without links; but for what serves git and those who work on it."""
    files = [path for path in unpacked.rglob("*") if not path.is_dir()]
    assert not [path for path in files if path.is_symlink()]
    made = ("PKG-INFO", "setup.cfg", "rapgym.egg-info/")
    held = {path.relative_to(unpacked).as_posix() for path in files}
    held = {name for name in held if not name.startswith(made)}
    assert held == {name for name in _committed(cloned) if not name.startswith(".")}


def test_tests_run_from_the_sdist(unpacked: Path) -> None:
    tests = [f"tests/{name}.py" for name in SAMPLE]
    pytest_alone = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    )
    printed = outside(*pytest_alone, *tests, folder=unpacked)
    assert re.search(r"^\d+ passed", printed, flags=re.MULTILINE), printed


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {places.inner(path).parent for path in provenance.code_files()}
    assert set(listed) == {".".join(("rapgym", *folder.parts)) for folder in folders}


def test_every_requirement_of_an_extra_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    free = {"ray", "clients"}  # clients of others live in an environment of their own
    wanted = [*project["dependencies"], *(r for e in extras if e not in free for r in extras[e])]
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted} - {"rapgym"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert names <= pinned


# What one run of the package tells of itself: an episode, a policy in a process of its own.
TELLS = """
import gzip, importlib.util, json, sys
import gymnasium
import rapgym, rapgym.baselines.forecast, rapgym.traces
from rapgym.files import places, provenance
from rapgym.guard.process import PolicyProcess
from rapgym.policies.policy import briefing
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue
from rapgym.scenarios.lanes import Lanes, Start

env = gymnasium.make("rapgym:RAP-KeptSet-v0", scenario="chat-beside-code", split="test")
env.reset(seed=0)
rewards = [float(env.step(env.action_space.sample())[1]) for _ in range(3)]

story = catalogue.scenario("chat-beside-code")
method = rapgym.baselines.forecast.__file__
table = next((places.TABLES).glob("*.csv.gz"))
hidden = [str(next(places.TRACES.glob("*.csv.gz"))), str(table)]
common = [bool(importlib.util.find_spec(name)) for name in ("baselines", "traces")]
sys.path.append(sys.argv[1])
options = {"row": 1, "read": [*hidden, method], "write": []}
start = Start(0, 0, 1.0, 2)
with PolicyProcess("stray_policies:Peeks", options, deadline_ms=60_000) as policy:
    log = rollout.episode(policy, Lanes(story, "test", 1), start, briefing(story), [0])
with PolicyProcess("rapgym.baselines.random_drop:RandomDrop", deadline_ms=60_000) as policy:
    rollout.episode(policy, Lanes(story, "test", 1), start, briefing(story), [0])
    faults = policy.faults
print(json.dumps({
    "package": rapgym.__file__,
    "folders": [rapgym.baselines.__file__, rapgym.traces.__file__],
    "common": common,
    "series": str(places.TRACES),
    "code": provenance.package_sha256(),
    "rewards": len(rewards),
    "reads": log.proposal[0].ravel()[:3].tolist(),
    "faults": faults,
}))
"""


def told(use: Use, folder: Path | None = None) -> dict[str, Any]:
    """What the package tells of itself where it is used in this way."""
    python, where = use.programs / "python", folder or use.folder
    printed = outside(python, "-c", TELLS, ROOT / "tests", folder=where)
    found: dict[str, Any] = json.loads(printed)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_each_way_runs_with_its_own_folders(uses: dict[str, Use], way: str) -> None:
    use = uses[way]
    found = told(use)
    assert Path(found["package"]).samefile(use.package / "__init__.py")
    for name, file in zip(("baselines", "traces"), found["folders"], strict=True):
        assert Path(file).samefile(use.holder / name / "__init__.py")
    assert Path(found["series"]).samefile(use.holder / "traces")
    assert found["rewards"] == 3
    assert found["code"] == provenance.package_sha256(), "a result names the same code either way"
    # A clone's own folders are those of its top as well, when one works there.
    assert found["common"] == [way == "a clone"] * 2
    assert not found["faults"], "a process finds the methods"
    assert found["reads"] == [not landlock.version(), not landlock.version(), True]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_has_a_command_line(uses: dict[str, Use], way: str, tmp_path: Path) -> None:
    use = uses[way]
    rapgym: tuple[str | Path, ...] = (use.programs / "rapgym",)
    if way == "a clone":
        rapgym = (use.programs / "python", "-m", "rapgym")
    assert "commands" in outside(*rapgym, "--help", folder=use.folder)
    assert "chat-beside-code" in outside(*rapgym, "scenarios", "list", folder=use.folder)
    assert "forecast" in outside(*rapgym, "policies", "list", folder=use.folder)
    wanted = ("--scenario", "laptop", "--policy", "static-best", "--quiet")
    outside(*rapgym, "bench", *wanted, "--out", tmp_path / "bench.csv.gz", folder=use.folder)
    assert (tmp_path / "bench.csv.gz").is_file()


def test_a_clone_runs_its_own_methods_where_another_is_installed(
    uses: dict[str, Use], unpacked: Path
) -> None:
    found = told(uses["an editable install"], folder=unpacked)
    assert Path(found["package"]).is_relative_to(unpacked)
    assert all(Path(file).is_relative_to(unpacked) for file in found["folders"])


def test_the_installed_wheel_benches_offline(installed: Path, tmp_path: Path) -> None:
    """Every baseline, tuned setting, series and table is in the wheel."""
    printed = outside(
        installed / "rapgym", "bench", "--json", "--quiet", "--scenario", "chat-beside-code",
        folder=tmp_path,
    )  # fmt: skip
    policies = {entry["policy"] for entry in json.loads(printed)}
    assert {e.name for e in registry.POLICIES if not e.train or e.name == "hindsight"} <= policies
    outside(installed / "rapgym", "verify", "results/bench.csv.gz", folder=tmp_path)


SECONDS = 1800  # of the log and the samples


def access_log() -> str:
    """Lines as an OpenAI server's gateway writes them: one request in two seconds, now more, now less."""
    return "".join(
        json.dumps(
            {
                "id": f"chatcmpl-{i}",
                "object": "chat.completion",
                "created": 1_780_000_000 + second,
                "model": "m",
                "usage": {
                    "prompt_tokens": 300 + 37 * (i % 40),
                    "completion_tokens": 60 + 11 * (i % 20),
                    "total_tokens": 360 + 37 * (i % 40) + 11 * (i % 20),
                },
            }
        )
        + "\n"
        for i, second in enumerate(s for s in range(SECONDS) if (s // 60) % 3 or s % 4 == 0)
    )


def smi() -> str:
    """What nvidia-smi writes each second on a card of 24 GiB: others hold 2 to 16 GiB; one sample failed."""
    lines = ["timestamp, memory.used [MiB]"]
    for second in range(SECONDS):
        at = datetime.fromtimestamp(1_780_000_000 + second, UTC).strftime("%Y/%m/%d %H:%M:%S")
        held = 2000 + 14_000 * ((second // 90) % 2) + second % 7
        lines.append(f"{at}.120, {'[N/A]' if second == 700 else f'{held} MiB'}")
    return "\n".join(lines) + "\n"


def test_an_outsider_gets_a_verdict_and_a_page(
    built: dict[str, Path], dependencies: Path, tmp_path: Path
) -> None:
    """Of the wheel alone, in a folder of one's own: two logs in, three sentences and a page out."""
    rapgym = environment(tmp_path / "env", f"{built['wheel']}[report]", beside=dependencies) / "rapgym"  # fmt: skip
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "log.jsonl").write_text(access_log(), encoding="utf-8")
    (folder / "smi.csv").write_text(smi(), encoding="utf-8")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 32,
        "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    deployment = ("--requests", "log.jsonl", "--memory", "smi.csv", "--utc", "--served", "config.json",
                  "--format", "int8/int8", "--card", "24", "--link", "20")  # fmt: skip
    printed = outside(
        rapgym, "map", *deployment, "--cards", "20,24,30", "--loads", "0.5,1", "--out", "verdict.html",
        folder=folder,
    )  # fmt: skip
    said = " ".join(printed.split())
    assert "Quality comes from the reference table" in said
    assert "The full model fits in so many seconds of the held-out rows" in said
    assert "Not pruning costs" in said
    assert re.search(r"Run-time pruning.*(saves|nothing to decide)", said)
    page = (folder / "verdict.html").read_text("utf-8")
    assert "Is run-time pruning worth it here?" in page
    assert "Run-time pruning" in page
    assert "default-src 'none'" in page, "nothing is asked of the network"
    bench = ("--policy", "frontier", "--quiet", "--jobs", "1", "--report", "bench.html")
    printed = outside(rapgym, "bench", *deployment, *bench, folder=folder)
    assert "is run-time pruning worth it?" in printed
    assert (folder / "bench.html").stat().st_size > 10_000
    outside(rapgym, "verify", "results/bench.csv.gz", folder=folder)


@pytest.mark.parametrize("module", ["baselines", "traces", "tests"])
def test_no_module_of_a_common_name_is_installed(
    installed: Path, tmp_path: Path, module: str
) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec('{module}'))"
    assert outside(installed / "python", "-c", code, folder=tmp_path).strip() == "None"
