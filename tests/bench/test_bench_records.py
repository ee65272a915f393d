"""Records of a bench: frozen, and from JSON only what is theirs."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_records import about_of, score_of

from rapgym.bench import results
from rapgym.bench.records import About, Score
from rapgym.bench.results import Results
from rapgym.errors import InvalidResult
from rapgym.files import headed
from rapgym.scenarios.story import Scenario

PRUNED = {"rule": "pruned", "weights": "int8", "kv": "bf16"}
ABOUTS = {
    "policy": about_of("gsi", kind="reactive", fallback=0.25, fault="late", decision_us_p50=3.5),
    "user's": about_of(
        "mine:Mine", validation_parts=(0.1, 0.2), settings={"kept": [1, 2], "deep": {"a": None}}
    ),
    "rival": about_of("int8", kind="rival", quality_se=0.01),
    "rival that prunes": about_of("int8-pruned", kind="rival", settings=PRUNED, sets_se=0.02),
    "oracle": about_of("bound", kind="bound"),
}
SCORES = {
    "plain": score_of(),
    "champion": score_of(
        champion=("reactive", "all"), p_holm=0.01, champion_p=(0.01, None), holm_tests=12,
        verdict="better",
        seed_costs=(0.1, 0.25),
    ),
    "rival": score_of("int4", kind="rival", gain=None, foresight=None, fault="gone"),
}  # fmt: skip


def through_json(record: About | Score) -> Any:
    return json.loads(json.dumps(record.as_json()))


@pytest.mark.parametrize("record", [*ABOUTS.values(), *SCORES.values()], ids=[*ABOUTS, *SCORES])
def test_a_record_comes_back_from_json_as_it_was(record: About | Score) -> None:
    again = type(record).from_json(through_json(record))
    assert again == record
    assert through_json(again) == through_json(record)


@pytest.mark.parametrize(
    ("which", "only"),
    [
        ("policy", {"fallback", "fault", "validation_parts"}),
        ("rival", {"quality_se"}),
        ("rival that prunes", {"quality_se", "sets_se"}),
        ("oracle", set[str]()),
    ],
)
def test_a_cell_holds_in_json_what_its_kind_has(which: str, only: set[str]) -> None:
    assert through_json(ABOUTS[which]).keys() - through_json(ABOUTS["oracle"]).keys() == only


@pytest.mark.parametrize("record", [*ABOUTS.values(), *SCORES.values()], ids=[*ABOUTS, *SCORES])
def test_every_key_is_needed_and_no_other_is_known(record: About | Score) -> None:
    whole = through_json(record)
    for name in whole:
        with pytest.raises(InvalidResult, match=f"lacks {name}"):
            type(record).from_json({key: value for key, value in whole.items() if key != name})
    with pytest.raises(InvalidResult, match="has what none has: colour"):
        type(record).from_json(whole | {"colour": "red"})


def test_what_another_kind_of_cell_has_is_refused() -> None:
    with pytest.raises(InvalidResult, match="a cell has what none has: sets_se"):
        About.from_json(through_json(ABOUTS["rival"]) | {"sets_se": 0.0})
    with pytest.raises(InvalidResult, match="has what none has: fallback"):
        About.from_json(through_json(ABOUTS["oracle"]) | {"fallback": 0.0})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("scenario", 7, "not text"),
        ("kind", "genius", "not one of static, reactive"),
        ("kind", ["rival"], "not one of static"),
        ("claims", 1, "not true or false"),
        ("cost", "0.1", "not a number"),
        ("cost", True, "not a number"),
        ("cost", None, "not a number"),
        ("cost", float("nan"), "not a number"),
        ("cost", float("inf"), "not a number"),
        ("cost", 10**400, "not a number"),
        ("gain", "high", "not a number or null"),
        ("seeds", 1.5, "not a whole number"),
        ("seeds", True, "not a whole number"),
        ("seed_costs", 0.1, "not a list"),
        ("seed_costs", [0.1, "x"], "not a list, each a number"),
        ("champion", "all", "not a list, each text"),
        ("verdict", "best", "not one of better, worse, equal, undecided or null"),
        ("unit", "week", "not one of day, hour, burst"),
        ("champion_p", ["x"], "not a list, each a number or null"),
        ("fault", 3, "not text or null"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(name: str, value: Any, told: str) -> None:
    with pytest.raises(InvalidResult, match=f"^{name} of a score is .*{told}"):
        Score.from_json(through_json(score_of()) | {name: value})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("settings", [], "not an object"),
        ("on_misfit", "drop", "not one of repair, refuse"),
        ("blocks", 6.0, "not a whole number"),
        ("ceiling", None, "not a number"),
    ],
)
def test_a_cells_value_of_another_type_is_refused_by_name(name: str, value: Any, told: str) -> None:
    with pytest.raises(InvalidResult, match=f"^{name} of a cell is .*{told}"):
        About.from_json(through_json(about_of()) | {name: value})


@pytest.mark.parametrize("given", [None, [], "text", 3])
def test_what_is_no_object_is_refused(given: object) -> None:
    for record in (About, Score):
        with pytest.raises(InvalidResult, match="described by no object"):
            record.from_json(given)


def test_whole_numbers_stand_for_numbers() -> None:
    found = Score.from_json(through_json(score_of()) | {"cost": 1, "gain": 90})
    assert (found.cost, found.gain) == (1.0, 90.0)
    assert json.dumps(found.as_json()["cost"]) == "1.0"


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        score_of().cost = 0.0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        about_of().fallback = 0.0  # type: ignore[misc]
    assert not hasattr(score_of(), "__dict__")
    assert not hasattr(about_of(), "__dict__")


def test_who_decides_and_who_prunes() -> None:
    decides = {name: about.decides for name, about in ABOUTS.items()}
    assert decides == {"policy": True, "user's": True, "rival": False, "rival that prunes": False,
                       "oracle": False}  # fmt: skip
    assert [name for name, about in ABOUTS.items() if about.prunes] == ["rival that prunes"]
    assert not about_of(settings=PRUNED).prunes, "a policy's settings may be called so"


@pytest.mark.parametrize("part", ["cells", "entries"])
def test_a_results_file_with_another_record_is_refused(
    part: str, toy_story: Scenario, tmp_path: Path
) -> None:
    from hostile_files import toy_results

    path = tmp_path / "toy.csv.gz"
    found = toy_results(toy_story)
    results.write(path, Results(found.header, found.cells, (score_of(),)))
    assert results.read(path).scores == (score_of(),)
    header, lines = headed.unpack(path.read_bytes())
    header[part][0]["policies"] = 1
    path.write_bytes(headed.pack(header, lines))
    with pytest.raises(InvalidResult, match=r"toy\.csv\.gz .* has what none has: policies"):
        results.read(path)


def test_no_cost_is_below_none_by_a_sign_alone() -> None:
    """Two processors may round to 0.0 and -0.0: a file holds the same bytes of both."""
    found = results._costs(np.array([0.0, -0.0, -1e-12, 0.25]))
    assert [*found] == ["0.0", "0.0", "0.0", "0.25"]
    assert [*results._costs(np.array([-0.0]))] == ["0.0"], "with no other zero beside it"
