"""A page as a Jupyter notebook: its blocks of Python are cells, what stands between them is text."""

import json
import re
from typing import Any

_BLOCK = re.compile(r"^```python\n(.*?)^```\n", flags=re.DOTALL | re.MULTILINE)


def notebook(page: str) -> str:
    """The notebook of a page, without outputs.

    Args:
        page: Markdown.
    """
    text, *parts = _BLOCK.split(page)
    cells = [_cell("markdown", text, 0)]
    for code, after in zip(parts[::2], parts[1::2], strict=True):
        cells.append(_cell("code", code, len(cells)))
        if after.strip():
            cells.append(_cell("markdown", after, len(cells)))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    found = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str, number: int) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
        cell = {name: cell[name] for name in sorted(cell)}
    return cell | {"source": text.strip("\n").splitlines(keepends=True)}
