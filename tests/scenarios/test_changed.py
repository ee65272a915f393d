"""A scenario that is changed by its name: model, format, card, link, traffic, and who else is on the card."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from rapgym import cli
from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.model.shapes import Format
from rapgym.scenarios import card, catalogue, worlds
from rapgym.scenarios.story import Recorded
from rapgym.workload.trace import RequestTrace, write_requests

BASE = "laptop"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of half an hour lie in the folder where one works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(3)
    at = np.sort(rng.uniform(0, 1800, 900))
    prompt, output = rng.integers(50, 2000, 900), rng.integers(5, 300, 900)
    write_requests(RequestTrace("r", at, prompt, output), Path("r.csv"))


def test_each_key_changes_what_it_says_and_no_more() -> None:
    base = catalogue.scenario(BASE)
    told = {
        "card=40": ("card_gib", 40.0),
        "served=mistral-7b": ("served", "mistral-7b"),
        "restore=2.5": ("restore_s", 2.5),
        "reaction=0.3": ("reaction_s", 0.3),
        "profile=cpu-2core": ("device_profile", "cpu-2core"),
    }
    for option, (name, value) in told.items():
        found = catalogue.scenario(f"{BASE}[{option}]")
        assert getattr(found, name) == value
        words = {"name", "story", "group", name}
        for field in {each.name for each in fields(base)} - words:
            assert getattr(found, field) == getattr(base, field), field
        assert found.is_own
        assert catalogue.scenario(found.id) == found


def test_a_format_brings_its_table() -> None:
    found = catalogue.scenario(f"{BASE}[format=int8/int8]")
    assert (found.form, found.table) == (Format("int8", "int8"), "smollm2-135m-int8-int8kv")
    assert catalogue.scenario(f"{BASE}[format=int4]").form == Format("int4", "bf16")
    with pytest.raises(InvalidSpec, match="no format is called 'int9'; there are bf16/bf16, int8/"):
        catalogue.scenario(f"{BASE}[format=int9]")


def test_a_link_says_how_long_all_blocks_take() -> None:
    """In the format and the model that are served, in whatever order they are stated."""
    found = catalogue.scenario(f"{BASE}[link=10,format=int8/int8,served=mistral-7b]")
    assert found.restore_s * 10e9 == pytest.approx(card.footprint(found).weights.sum())
    assert worlds.link_bytes_per_s(found) == pytest.approx(10e9)
    assert worlds.world(found, "train").restore_bytes_per_s == pytest.approx(10e9)


@pytest.mark.parametrize(("held", "left_gib"), [("none", 40.0), ("0", 40.0), ("6.5", 33.5)])
def test_nobody_else_or_the_same_all_the_time(held: str, left_gib: float) -> None:
    found = catalogue.scenario(f"{BASE}[requests=r.csv,card=40,tenant={held}]")
    assert (found.tenant, found.offsets, found.every) == (None, 1, 1)
    limits = worlds.world(found, "train").rows.limit_bytes
    assert (limits == left_gib * (1 << 30)).all()
    assert not isinstance(found.tenant, Recorded)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("tenant=23.5", "less than the card's 23.5, not '23.5'"),
        ("tenant=nobody", "tenant is none or GiB"),
        ("tenant=nan", "tenant is none or GiB"),
        ("link=0", "link is more than 0 GB a second"),
        ("restore=soon", "restore is a number, not 'soon'"),
        ("window=2.5", "window is a whole number, not '2.5'"),
        ("every=x,tenant=none", "every is a whole number"),
        ("reaction=-1", "reaction_s is 0 or more seconds"),
        ("profile=absent", "no device profile"),
        ("requests=r.csv", "names no scenario"),
        ("memory=m.csv,tenant=1", "names no scenario"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options: str, says: str) -> None:
    with pytest.raises(InvalidSpec, match=says.replace("(", r"\(")):
        catalogue.scenario(f"{BASE}[{options}]")


def test_arrivals_that_are_drawn_keep_their_tenant() -> None:
    drawn = next(story for story in catalogue.shipped() if story.is_drawn)
    with pytest.raises(InvalidSpec, match="need the tenant that is drawn"):
        catalogue.scenario(f"{drawn.name}[tenant=none]")


def test_the_window_follows_from_ones_own_requests() -> None:
    """By hand: 0.2 ms a prompt token and 30 ms an output token, weighted by both."""
    made = RequestTrace(
        "r", np.arange(0.0, 1800, 2), np.full(900, 1000), np.where(np.arange(900) % 2, 100, 600)
    )
    write_requests(made, Path("long.csv"))
    # Stays of 18.2 s with 1600 tokens and of 3.2 s with 1100.
    suits = round((18.2 * 1600 + 3.2 * 1100) / 2700)
    assert suits == 12
    name = f"{BASE}[requests=long.csv,tenant=none]"
    assert catalogue.scenario(name).window_s == suits
    assert catalogue.scenario(name.replace("tenant", "every=2,tenant")).window_s == 18
    assert catalogue.scenario(name.replace("tenant", "window=9,tenant")).window_s == 9
    assert catalogue.scenario(f"{BASE}[tenant=none]").window_s == catalogue.scenario(BASE).window_s


def test_a_file_may_leave_the_window_to_its_requests(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scenarios", "new", "my.toml", *DEPLOYED]) == 0
    stated = catalogue.scenario("my.toml")
    lines = [x for x in Path("my.toml").read_text().splitlines() if not x.startswith("window_s")]
    Path("mine.toml").write_text("\n".join(lines))
    assert catalogue.scenario("mine.toml").window_s == stated.window_s
    Path("none.toml").write_text("\n".join(lines).replace('"r.csv"', '"azure-conv"'))
    with pytest.raises(InvalidSpec, match="window_s is missing"):
        catalogue.scenario("none.toml")


def test_what_rows_are_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    ask = [
        "map",
        "--cards",
        "40",
        "--loads",
        "1",
        "--jobs",
        "1",
        "--quiet",
        "--train-only",
        *DEPLOYED,
    ]
    assert cli.main(ask) == 0
    story = catalogue.scenario(f"{BASE}[requests=r.csv,tenant=1]")
    window_s, rows = story.window_s, len(worlds.workload(story))
    assert (window_s, rows) == (5, 359)
    said = capsys.readouterr().err
    assert f"{rows} rows of {window_s} s, as long as these requests stay" in said
    assert f"{int(0.7 * rows)} are train, {int(0.25 * rows)} held out" in said
    assert cli.main([*ask, "--window", "4"]) == 0
    said = capsys.readouterr().err
    assert f"rows of 4 s, as stated; these requests stay {window_s} s" in said


def test_too_few_rows_are_refused_with_the_window_that_gives_enough() -> None:
    """Of half an hour of requests that stay a minute; and the window that is named is enough."""
    made = RequestTrace("r", np.arange(0.0, 1800, 2), np.full(900, 100), np.full(900, 2000))
    write_requests(made, Path("long.csv"))
    story = catalogue.scenario(f"{BASE}[requests=long.csv,tenant=none]")
    assert story.window_s == 60
    with pytest.raises(InvalidTrace, match=r"record at least 3840 s, or state .*--window 26\)"):
        worlds.workload(story)
    assert len(worlds.workload(replace(story, window_s=26, workload="own-other"))) >= 64


DEPLOYED = ["--requests", "r.csv", "--served", "llama3-8b", "--format", "int8/int8", "--card", "12",
            "--tenant-gib", "1", "--link", "12"]  # fmt: skip


def test_a_file_is_written_from_a_deployment(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scenarios", "new", "my.toml", *DEPLOYED]) == 0
    name = "laptop[requests=r.csv,card=12,served=llama3-8b,format=int8/int8,link=12,tenant=1]"
    stated, written = catalogue.scenario(name), catalogue.scenario("my.toml")
    for field in {each.name for each in fields(stated)} - {"name", "claims"}:
        assert getattr(written, field) == getattr(stated, field), field
    assert "# The model that is served" in Path("my.toml").read_text()


def test_a_map_of_a_deployment_needs_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["map", "--cards", "8,11", "--loads", "1", "--jobs", "1", "--quiet"]
    assert cli.main([*ask, *DEPLOYED]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "Quality comes from the reference table smollm2-135m-int8-int8kv" in said
    assert "others holding 1 GiB all the time" in said
    assert "The full model fits in so many seconds of the held-out rows" in said
    assert cli.main([*ask, "my.toml"]) == 2
    assert "my.toml is not there" in capsys.readouterr().err
    cli.main(["scenarios", "new", "my.toml", *DEPLOYED])
    capsys.readouterr()
    assert cli.main([*ask, "my.toml", "--json"]) == 0
    of_file = json.loads(capsys.readouterr().out)
    assert cli.main([*ask, *DEPLOYED, "--json"]) == 0
    of_flags = json.loads(capsys.readouterr().out)
    assert of_file["points"] == of_flags["points"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--served", "llama9"], "no model shape is called 'llama9'"),
        (["--format", "int9"], "no format is called 'int9'"),
        (["--requests", "absent.csv"], "absent.csv is not there"),
        (["--every", "2"], "--every needs --trace, a recording of memory, or --tenant-gib"),
        (["--trace", "m.csv", "--tenant-gib", "1"], "leave one of them out"),
        (["--profile", "absent"], "no device profile"),
        (["--reaction-s", "-1"], "reaction_s is 0 or more seconds"),
        (["absent"], "no scenario is called 'absent'"),
        (["--out", "map.txt"], "is no name of an HTML page"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["map", *arguments, "--quiet"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--card", "0"], "--card: 0 is not above 0"),
        (["--card", "big"], "--card: invalid positive_number value: 'big'"),
        (["--cards", "1,x"], "'1,x' is no list of numbers above 0"),
        (["--loads", "-1"], "is no list of numbers above 0"),
        (["--link", "1", "--restore-s", "1"], "not allowed with argument"),
        (["--window", "0"], "--window: 0 is less than 1"),
    ],
)
def test_numbers_that_cannot_be_are_wrong_use(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["map", *arguments])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
