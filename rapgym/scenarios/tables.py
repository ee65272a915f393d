"""The quality tables of a scenario."""

from functools import lru_cache

from rapgym.errors import InvalidTable
from rapgym.model.shapes import BF16, Format
from rapgym.quality.table import QualityTable
from rapgym.scenarios.story import Scenario


@lru_cache(maxsize=8)
def _table(name: str) -> QualityTable:
    return QualityTable.load(name)


def forget() -> None:
    """Read tables anew: what they were made of has changed."""
    _table.cache_clear()


def table(story: Scenario) -> QualityTable:
    """The quality table of a scenario: differences from the model that is dense in its own format.

    Raises:
        DataUnavailable: it is not here.
        InvalidTable: it is of another format.
    """
    return _in_format(story.table, story.form)


def base_table(story: Scenario) -> QualityTable:
    """The table in bf16 of a scenario's model, which knows what each format costs it; raises likewise."""
    return _in_format(base_name(story), BF16)


def format_table(story: Scenario, form: Format) -> QualityTable:
    """The table of a scenario's model in another format; raises likewise."""
    return _in_format(table_name(base_name(story), form), form)


def base_name(story: Scenario) -> str:
    """The name of `base_table`."""
    ending = table_name("", story.form)
    return story.table.removesuffix(ending) if ending else story.table


def table_name(base: str, form: Format) -> str:
    """What a table in a format is called, beside the one in bf16: smollm2-135m-int8-int8kv."""
    weights = "" if form.weights == "bf16" else f"-{form.weights}"
    return base + weights + ("" if form.kv == "bf16" else f"-{form.kv}kv")


def _in_format(name: str, form: Format) -> QualityTable:
    found = _table(name)
    if (found.header.weights, found.header.kv) != (form.weights, form.kv):
        raise InvalidTable(
            f"the table {name} is of {found.header.weights} weights and {found.header.kv} KV, where "
            f"{form.weights} and {form.kv} are asked for: measure it with that format"
        )
    return found
