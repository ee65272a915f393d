"""How Sphinx makes the site of this repository's pages: `make docs`.

Its source folder is the repository, not `docs/`, so that links between pages hold here as they do where
the files are read. It asks no network.
"""

import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
ABOUT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = ABOUT["name"]
author = ABOUT["authors"][0]["name"]
project_copyright = author
release = version = ABOUT["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "*.md",
    "baselines/results/*.md",
    "baselines/cards/*.md",
    "leaderboard/README.md",
    "traces/README.md",
]
# docs/README.md is the list for those who read files; docs/index.md shows it. Folders that hold no page
# are named so that nobody walks through them.
exclude_patterns = ["docs/README.md", ".*", "build", "dist", "rapgym", "tests", "runs", "results"]

# Headings have the anchors that GitHub gives them, and links may use them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# A drawing of text is no language.
highlight_language = "none"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Docstrings write code between single backticks.
default_role = "code"

html_theme = "furo"
html_title = f"rapgym {release}"
html_show_sourcelink = False
html_show_copyright = False
html_static_path: list[str] = []
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1|example\.org)"]

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)([^)#\s]+)(#[^)\s]+)?\)")


def _links(text: str, folder: Path) -> str:
    """The links of a page as a site shows them.

    One that is called by its file gets the title of the page, or of the section. One to a file or folder that is no page, such as
    `../baselines`, leads nowhere outside a clone: its name stays.
    """

    def shown(found: re.Match[str]) -> str:
        words, target, anchor = found.groups(default="")
        place = (folder / target).resolve()
        if place.exists() and place.suffix not in (".md", ".ipynb"):
            return f"`{words.strip('`')}`"
        return f"[]({target}{anchor})" if words == target and place.suffix == ".md" else found[0]

    return _LINK.sub(shown, text)


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = _links(source[0], (ROOT / docname).parent)


def _included(app: Sphinx, path: Path, docname: str, source: list[str]) -> None:
    source[0] = _links(source[0], (ROOT / path).parent)


def _without_repeats(
    app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Leave out what a module says of itself: the page says it."""
    if what == "module":
        lines.clear()


def _front(app: Sphinx, failed: Exception | None) -> None:
    """Lead from the folder of the site to its first page."""
    if failed is None and app.builder.format == "html":
        page = app.builder.get_target_uri(root_doc)
        Path(app.outdir, "index.html").write_text(
            f'<!doctype html><title>rapgym</title><meta http-equiv="refresh" content="0; url={page}">'
            f'<a href="{page}">rapgym</a>\n'
        )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect("include-read", _included)
    app.connect("autodoc-process-docstring", _without_repeats)
    app.connect("build-finished", _front)
