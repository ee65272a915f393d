"""The site: every page is in it, its Python names are the public ones, it builds without a warning."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rapgym

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
API = (DOCS / "api.md").read_text()
FOLDERS = ("docs", ".", "baselines/results", "baselines/cards", "leaderboard", "traces")


def listed() -> list[Path]:
    """The pages that the toctrees name, in order."""
    text = (DOCS / "index.md").read_text()
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line and line[0] != ":"]
    names = [re.sub(r"^.*<(.*)>$", r"\1", line) for line in lines]
    found = [
        sorted(DOCS.glob(f"{name}.md")) if "*" in name else [DOCS / f"{name}.md"] for name in names
    ]
    return [page.resolve() for pages in found for page in pages]


def test_every_page_is_listed_once() -> None:
    pages = {page.resolve() for folder in FOLDERS for page in (ROOT / folder).glob("*.md")}
    pages -= {DOCS / "index.md", DOCS / "README.md"}
    found = listed()
    assert sorted(found) == sorted(pages)


def test_the_python_page_has_every_public_name() -> None:
    directives = re.findall(r"^\.\. auto\w+:: rapgym\.(\S+)$", API, flags=re.MULTILINE)
    plain = {name for name in directives if "." not in name}
    assert plain | {"__version__", "figures"} == {*rapgym.__all__}
    assert "`rapgym.__version__`" in API
    figures = [name.partition(".")[2] for name in directives if name.startswith("figures.")]
    assert sorted(figures) == sorted(rapgym.figures.__all__)


def test_what_to_cite_is_what_there_is() -> None:
    page, whole = (DOCS / "cite.md").read_text(), (ROOT / "CITATION.cff").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"version = {{{version}}}" in page
    assert f"\nversion: {version}\n" in whole
    for title in re.findall(r"title +=? *\{(.+)\},$", page, flags=re.MULTILINE):
        assert f'title: "{title}"' in whole


# Built


def built(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install 'rapgym[docs]'")
    folders = ("-c", source / "docs", source, out)
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "dirhtml", *folders],
        capture_output=True,
        text=True,
    )


@pytest.mark.packaging
def test_the_site_builds_without_a_warning_and_asks_no_network(tmp_path: Path) -> None:
    done = built(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'url=docs/"' in (tmp_path / "index.html").read_text()
    for page in listed():
        name = page.relative_to(ROOT).with_suffix("")
        assert (tmp_path / name / "index.html").is_file(), name
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r"<(?:link|script|img|iframe)\b[^>]*\b(?:href|src)=\"(\w+:)?//", text)
        assert not fetched, page
    assert "rapgym.run_bench" in (tmp_path / "docs" / "api" / "index.html").read_text()


@pytest.mark.packaging
@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("[there](nowhere.md)", "nowhere.md"),
        ("[there](other.md#nothing)", "nothing"),
        ("![a picture](nothing.svg)", "nothing.svg"),
    ],
)
def test_a_link_that_leads_nowhere_fails(page: str, said: str, tmp_path: Path) -> None:
    docs = tmp_path / "tree" / "docs"
    docs.mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", docs.parent)
    shutil.copy(DOCS / "conf.py", docs)
    toctree = "\n\n```{toctree}\nother\n```\n"
    (docs / "index.md").write_text("# All" + toctree)
    (docs / "other.md").write_text("# Other\n\n## One thing\n\n[here](other.md#one-thing)\n")
    assert built(docs.parent, tmp_path / "out").returncode == 0
    (docs / "other.md").write_text(f"# Other\n\n## One thing\n\n{page}\n")
    done = built(docs.parent, tmp_path / "out")
    assert done.returncode == 1
    assert said in done.stderr
