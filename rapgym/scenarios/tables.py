"""The quality tables of a scenario, and what they say in nats above the full bf16 model.

A table holds differences from the model that is dense in the table's own format. What that format
costs the dense model is measured by the table in bf16 and added here, so that formats compare.
"""

from dataclasses import replace
from functools import lru_cache

from rapgym.errors import InvalidTable
from rapgym.model.shapes import BF16, Format
from rapgym.quality import history
from rapgym.quality.columns import QualityColumns
from rapgym.quality.table import QualityTable
from rapgym.scenarios.story import Scenario


@lru_cache(maxsize=8)
def _table(name: str) -> QualityTable:
    return QualityTable.load(name)


def forget() -> None:
    """Read tables anew: what they were made of has changed."""
    _table.cache_clear()
    _above.cache_clear()


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


def ceiling(story: Scenario) -> float:
    """C, nats above the full bf16 model: what a token that is not served costs."""
    return base_table(story).ceiling(story.domain) if story.ceiling is None else story.ceiling


def history_share(story: Scenario) -> tuple[float, ...] | None:
    """What stays of an FFN drop's damage, by blocks dropped; None where it was not measured.

    Measured in bf16, and taken for every format: a share is of a drop's damage, not of a format's.

    Raises:
        InvalidTable: the file beside the table cannot be read.
    """
    path = history.path_of(base_name(story))
    return history.ffn_share(history.read(path)) if path.exists() else None


def told(story: Scenario, form: Format | None = None) -> QualityColumns:
    """What policies, the shield and rewards may read: calibration text, nats above full bf16.

    Args:
        form: of weights and KV; the scenario's own unless stated.

    Raises:
        DataUnavailable: the format has no table.
        InvalidTable: the table of its name is of another format.
        UnmeasuredSet: what the format costs the dense model was not measured.
    """
    form, domain = form or story.form, story.told_domain or story.domain
    columns = _of_form(story, form).calibration(domain, story.draw)
    added = base_table(story).format_nll(form, "calib", domain)
    return _above(columns, added, ceiling(story))


def judged(story: Scenario, form: Format | None = None) -> QualityColumns:
    """What the scorer reads, and it alone: test text, nats above full bf16; raises as `told` does.

    The shield cuts along the order that it was told of, whatever text scores.
    """
    form = form or story.form
    columns = _of_form(story, form).test(story.domain)
    added = base_table(story).format_nll(form, "test", story.domain)
    columns, order = _above(columns, added, ceiling(story)), told(story, form).order
    return columns if (columns.order == order).all() else replace(columns, order=order)


@lru_cache(maxsize=64)
def _above(columns: QualityColumns, added: float, ceiling: float) -> QualityColumns:
    """Once, so that predictors are fitted and frontiers found once for all scenarios of a table."""
    return columns.above(added, ceiling)


def _of_form(story: Scenario, form: Format) -> QualityTable:
    return table(story) if form == story.form else format_table(story, form)


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
