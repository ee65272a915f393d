"""How much of foresight is knowable, as Markdown."""

from collections.abc import Mapping
from typing import Any


def section(found: Mapping[str, Any]) -> str:
    import json

    return json.dumps(found, indent=1)
