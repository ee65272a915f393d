"""Scenarios as files: the list, a user's own, and errors that name file and key."""

import json
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rapgym import cli
from rapgym.bench import origin as bench_origin
from rapgym.errors import DataUnavailable, InvalidSpec, RapgymError
from rapgym.files import checked, limits, places
from rapgym.scenarios import catalogue, file, serving, serving_worlds, worlds
from rapgym.scenarios.catalogue import shipped
from rapgym.scenarios.story import GROUPS, Recorded, Scenario, Tenant
from rapgym.workload import names
from rapgym.workload.trace import MemoryTrace, RequestTrace, write_memory, write_requests

GIB = 1 << 30
TENANT = 'tenant = {model = "llama2-7b", trace = "azure-code", every = 2, pool_gib = 8}'
NUMBERS = {
    "card_gib": "44",
    "served": '"llama2-7b"',
    "trace": '"azure-conv"',
    "every": "2",
    "window_s": "7",
    "restore_s": "0.5",
}
SHAPE = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
         "num_attention_heads": 4, "intermediate_size": 96}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))


def written(*more: str, path: str = "my.toml", without: Collection[str] = (), **change: str) -> str:
    """A file with these lines, and without those of some keys."""
    told = NUMBERS | change
    lines = [f"{key} = {value}" for key, value in told.items() if key not in without]
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("\n".join([*lines, *more]), encoding="utf-8")
    return path


def traces(folder: str = ".", seconds: int = 600) -> None:
    """A recording of memory, and two traces of requests in the same hour."""
    at = np.arange(seconds, dtype=float)
    used = np.array([(2 + t % 3) * GIB for t in range(seconds)], dtype=np.int64)
    write_memory(MemoryTrace("m", at, used), Path(folder) / "m.csv.gz")
    for name in ("r", "s"):
        tokens = np.full(seconds, 40 + ord(name), dtype=np.int64)
        made = RequestTrace(name, at, tokens, tokens // 4, start_wall_s=2e9)
        write_requests(made, Path(folder) / f"{name}.csv")


def test_the_list_is_read_from_its_files() -> None:
    assert {story.name for story in shipped()} == {
        path.stem for path in places.STORIES.glob("*.toml")
    }
    order = [(GROUPS.index(story.group), story.name) for story in shipped()]
    assert order == sorted(order)
    for story in shipped():
        assert story.is_drawn or worlds.workload_file(story).is_file()
        assert not story.is_own
        assert story.story.endswith(".")
        assert catalogue.scenario(story.id) is story
    traffics = {catalogue._traffic(story): story.workload for story in shipped()}
    assert len(traffics) == len({story.workload for story in shipped()}), "one series a traffic"


def test_every_number_of_the_list_says_why() -> None:
    for path in places.STORIES.glob("*.toml"):
        assert path.read_text("utf-8").count("# ") >= 3, path.name


@pytest.mark.parametrize("story", shipped(), ids=lambda story: story.name)
def test_a_file_that_is_written_says_the_same(story: Scenario) -> None:
    path = Path("my.toml")
    path.write_text(file.written(story, Path()), encoding="utf-8")
    same = replace(story, name="my.toml", group="own", claims=True)
    assert catalogue.scenario("my.toml") == same
    if not story.is_drawn:
        assert worlds.workload_file(same) == worlds.workload_file(story), "no raw trace is needed"
    comments = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    keys = [line for line in path.read_text("utf-8").splitlines() if " = " in line]
    assert len(comments) > len(keys)


def test_keys_are_the_fields_of_a_scenario() -> None:
    assert {*file.KEYS} == {field.name for field in fields(Scenario)} - {"name"}
    assert {*file.TENANT} == {field.name for field in fields(Tenant)}


def test_what_a_file_leaves_out_is_at_its_default() -> None:
    found = catalogue.scenario(written(TENANT, without=["every"]))
    stated = replace(catalogue.scenario("chat-beside-code"), name="my.toml", story="", every=1)
    assert replace(found, workload="", group="own") == replace(stated, workload="", group="own")
    assert found.group == "own"
    assert (found.is_own, found.headline) == (True, False)


@pytest.mark.parametrize(
    ("lines", "change", "says"),
    [
        (["card_gb = 40"], {}, r"no key 'card_gb'; did you mean card_gib\? Keys are story, "),
        (["zzz = 40"], {}, r"no key 'zzz'\. Keys are"),
        (["name = 'x'"], {}, r"no key 'name'"),
        ([], {"without": ["card_gib"]}, r"card_gib is missing \(all memory there is, GiB\)"),
        ([], {"card_gib": '"44"'}, r"card_gib is a number, not '44'"),
        ([], {"card_gib": "true"}, r"card_gib is a number, not True"),
        ([], {"card_gib": "inf"}, r"card_gib is a number, not inf"),
        ([], {"card_gib": "nan"}, r"card_gib is a number, not nan"),
        ([], {"card_gib": "-1"}, r"card_gib is above 0 GiB, not -1"),
        ([], {"card_gib": "1" + "0" * 400}, "card_gib is too large"),
        ([], {"every": "1.5"}, r"every is a whole number, not 1\.5"),
        ([], {"every": "0"}, r"every is at least 1, not 0"),
        ([], {"window_s": "1000"}, r"window_s is 1 to 999 whole seconds, not 1000"),
        ([], {"restore_s": "0"}, r"restore_s is above 0 s"),
        ([], {"served": '"llama9"'}, r"served: no model shape is called 'llama9'; there are"),
        ([], {"served": '"absent.json"'}, r"served: absent\.json is not there"),
        ([], {"trace": '"azure"'}, r"trace: no request trace is called 'azure'; there are azure-conv"),
        ([], {"trace": '"vllm-kvcache"'}, "trace: no request trace is called 'vllm-kvcache'"),
        ([], {"trace": '"servegen:language/m-large"'}, "a tenant whose arrivals are drawn too"),
        (["notice_s = -1"], {}, "notice_s cannot be negative"),
        (["length_share = 2"], {}, "length_share is above 0, at most 1, not 2"),
        (["ceiling = 0"], {}, "ceiling is above 0 nats"),
        (["synthetic = 1"], {}, "synthetic is true or false, not 1"),
        (["splits = 'random'"], {}, "splits is one of time, blocked, days, not 'random'"),
        (["group = '8-bit'"], {}, "group is rapgym's own list; remove the line"),
        (["workload = 'azure-conv2-code2-pool8'"], {}, "no series of this traffic; leave the line out"),
        (["form = {weights = 'int2'}"], {}, r"\[form\]: weights is one of bf16, int8, int4, not 'int2'"),
        (["form = 'int8'"], {}, r"\[form\] is a table of weights, kv, not 'int8'"),
        (["form = {weight = 'int8'}"], {}, r"did you mean weights\?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_file_and_key(
    lines: list[str], change: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidSpec, match=rf"^my\.toml: .*{says}"):
        catalogue.scenario(written("offsets = 1", *lines, **change))


@pytest.mark.parametrize(
    ("tenant", "says"),
    [
        ("{model = 'llama2-7b'}", r"\[tenant\]: trace is missing"),
        ("{modle = 'llama2-7b'}", r"\[tenant\]: there is no key 'modle'; did you mean model\?"),
        ("3", r"\[tenant\] is a table of model, trace"),
        ("{recording = 'm.csv', model = 'llama2-7b'}", "beside a recording stands nothing else; remove model"),
        ("{recording = 3}", r"\[tenant\]: recording is text, not 3"),
        ("{model = 'llama2-7b', trace = 'azure-code', every = 0, pool_gib = 8}", r"tenant\.every is at least 1"),
        ("{model = 'llama2-7b', trace = 'azure-code', every = 1, pool_gib = 0}", r"tenant\.pool_gib is above 0"),
        ("{model = 'llama9', trace = 'azure-code', every = 1, pool_gib = 8}", r"tenant\.model: no model shape"),
        ("{model = 'llama2-7b', trace = 'code', every = 1, pool_gib = 8}", r"tenant\.trace: no request trace"),
    ],
)  # fmt: skip
def test_a_tenant_that_cannot_be_is_refused(tenant: str, says: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"^my\.toml: .*{says}"):
        catalogue.scenario(written(f"tenant = {tenant}"))


def test_without_a_tenant_pairings_are_one() -> None:
    with pytest.raises(InvalidSpec, match=r"my\.toml: offsets is 1 without a tenant"):
        catalogue.scenario(written())


def test_what_is_no_file_of_a_scenario_is_refused() -> None:
    with pytest.raises(
        DataUnavailable, match=r"absent\.toml is not there.*scenarios new absent\.toml"
    ):
        catalogue.scenario("absent.toml")
    Path("folder.toml").mkdir()
    Path("broken.toml").write_text("card_gib = ")
    Path("latin.toml").write_bytes(b"story = '\xff'")
    Path("deep.toml").write_text("a = " + "[" * 100_000)
    Path("huge.toml").write_bytes(b"#\n" * limits.SCENARIO)
    for name in ("folder.toml", "broken.toml", "latin.toml", "deep.toml", "huge.toml", "\0.toml"):
        with pytest.raises(InvalidSpec, match="is no TOML file that can be read"):
            catalogue.scenario(name)
    with pytest.raises(DataUnavailable, match=r"r\.csv is not there"):
        catalogue.scenario(written(TENANT, trace='"r.csv"'))
    with pytest.raises(DataUnavailable, match=r"m\.csv is not there"):
        catalogue.scenario(written("tenant = {recording = 'm.csv'}"))


VALUES = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=8), st.just([]), st.just({}),
    st.sampled_from(["llama2-7b", "x.json", "x.csv", "int8", "servegen:", "own-1"]),
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(st.sampled_from([*file.KEYS]), VALUES, max_size=4),
    st.dictionaries(st.sampled_from([*file.TENANT, *file.RECORDED]), VALUES, max_size=5),
)
def test_no_value_gives_a_traceback(values: dict[str, Any], tenant: dict[str, Any]) -> None:
    def literal(value: Any) -> str:
        if isinstance(value, float):
            return repr(value)
        return json.dumps(value).replace("\x7f", "\\u007f")

    lines = [f"{key} = {literal(value)}" for key, value in values.items() if key != "tenant"]
    lines += ["[tenant]", *(f"{key} = {literal(value)}" for key, value in tenant.items())]
    path = written(*lines, without=values)
    try:
        assert catalogue.scenario(path).name == "my.toml"
    except DataUnavailable:
        pass
    except RapgymError as error:
        said = str(error)
        assert said.startswith("my.toml")


@pytest.mark.usefixtures("shaped")
def test_paths_start_from_the_folder_of_the_file() -> None:
    Path("deep").mkdir()
    traces("deep")
    Path("deep/config.json").write_text(json.dumps(SHAPE))
    name = written('tenant = {recording = "m.csv.gz"}', path="deep/my.toml", trace='"r.csv"',
                   served='"config.json"')  # fmt: skip
    story = catalogue.scenario(name)
    assert (story.trace, story.served) == ("deep/r.csv", "deep/config.json")
    recording = Path("deep/m.csv.gz")
    assert story.tenant == Recorded(str(recording), checked.sha256_of(recording))
    assert len(worlds.workload(story)) >= 64
    assert bench_origin.files_sha256(story) == {
        path: checked.sha256_of(Path(path))
        for path in ("deep/my.toml", "deep/r.csv", "deep/m.csv.gz", "deep/config.json")
    }
    again = file.written(story, Path("deep"))
    Path("deep/again.toml").write_text(again)
    assert replace(catalogue.scenario("deep/again.toml"), name=name) == story


@pytest.mark.usefixtures("shaped")
def test_traffic_of_ones_own_is_paired_by_wall_clock_and_kept() -> None:
    traces()
    tenant = 'tenant = {model = "llama2-7b", trace = "s.csv", every = 1, pool_gib = 8}'
    story = catalogue.scenario(written(tenant, trace='"r.csv"'))
    path = worlds.workload_file(story)
    assert path.is_relative_to(checked.cache_folder())
    whole = worlds.workload(story)
    assert whole.origin["pool_tokens"] == story.pool_tokens > 0
    assert whole.tenant_tokens.max() > 0
    assert whole.batch[1:].min() >= 3, "every 2nd of a request a second, in rows of seven seconds"
    assert worlds.world(story, "train").rows.limit_bytes.min() > 0
    assert str(Path.cwd()) not in str(whole.origin)


@pytest.mark.usefixtures("raw_data", "shaped")
def test_another_share_of_a_known_trace_is_built_from_the_raw_trace() -> None:
    story = catalogue.scenario(written(TENANT, every="5"))
    assert names.is_own(story.workload)
    whole = worlds.workload(story)
    shared = worlds.workload(catalogue.scenario("chat-beside-code"))
    assert (whole.tenant_tokens == shared.tenant_tokens).all(), "the tenant is the same"
    assert whole.batch.sum() == pytest.approx(shared.batch.sum() * 2 / 5, rel=0.02)


def test_the_same_numbers_elsewhere_share_what_was_tuned_and_others_do_not() -> None:
    traces()
    Path("c.json").write_text(json.dumps(SHAPE))
    lines = ['tenant = {recording = "m.csv.gz"}']
    change: dict[str, Any] = {"trace": '"r.csv"', "served": '"c.json"'}
    first = catalogue.scenario(written(*lines, **change))
    Path("deep").mkdir()
    for name in ("m.csv.gz", "r.csv", "c.json"):
        Path("deep", name).write_bytes(Path(name).read_bytes())
    moved = catalogue.scenario(written(*lines, path="deep/other.toml", **change))
    assert moved.key == first.key
    assert moved.workload == first.workload
    assert "/" not in first.key
    assert catalogue.scenario(written(*lines, **change, card_gib="40")).key != first.key
    Path("c.json").write_text(json.dumps(SHAPE | {"vocab_size": 101}))
    assert first.key != moved.key, "the shape is another"


@pytest.mark.usefixtures("shaped")
@pytest.mark.parametrize("make", [catalogue.load_scenario, catalogue.story_of, catalogue.scenario])
def test_whatever_takes_a_name_takes_a_file(make: Callable[[str], Scenario]) -> None:
    name = written(TENANT)
    story = make(name)
    assert story == make(f"{name}-v0") if make is not catalogue.story_of else True
    env = gymnasium.make("RAP-v0", scenario=name)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert worlds.make_world(name).rows.limit_bytes.shape[1] == 7


def test_another_model_is_served_by_name_or_config() -> None:
    Path("c.json").write_text(json.dumps(SHAPE))
    base = catalogue.scenario("chat-gqa")
    for model in ("mistral-7b", "c.json"):
        story = catalogue.scenario(f"chat-gqa[served={model}]")
        assert (story.served, story.tenant, story.workload) == (model, base.tenant, base.workload)
        assert (story.group, story.is_own) == ("own", True)
        assert catalogue.scenario(story.id) == story
    assert "c.json" in bench_origin.files_sha256(story)
    on_file = catalogue.scenario(f"{written(TENANT)}[served=c.json,card=30]")
    assert (on_file.served, on_file.card_gib) == ("c.json", 30)
    assert "my.toml" in bench_origin.files_sha256(on_file)
    with pytest.raises(InvalidSpec, match="no model shape is called 'llama9'"):
        catalogue.scenario("chat-gqa[served=llama9]")
    assert catalogue.scenario("chat-gqa[card=30]").workload == base.workload
    for wrong in ("chat-gqa[served=llama2-7b,every=2]", "chat-gqa[card=30,tenant=1,memory=m.csv]"):
        with pytest.raises(InvalidSpec, match="names no scenario"):
            catalogue.scenario(wrong)


def test_new_writes_a_file_and_overwrites_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scenarios", "new", "my.toml", "--like", "chat-gqa"]) == 0
    assert "rapgym scenarios check my.toml" in capsys.readouterr().out
    content = Path("my.toml").read_text()
    assert catalogue.scenario("my.toml").card_gib == catalogue.scenario("chat-gqa").card_gib
    assert cli.main(["scenarios", "new", "my.toml"]) == 2
    assert "add --force" in capsys.readouterr().err
    assert Path("my.toml").read_text() == content
    assert cli.main(["scenarios", "new", "my.toml", "--like", "laptop", "--force"]) == 0
    assert Path("my.toml").read_text() != content
    assert cli.main(["scenarios", "new", "my.txt"]) == 2
    assert "ends in .toml" in capsys.readouterr().err
    assert cli.main(["scenarios", "new", "other.toml", "--like", "absent"]) == 2
    assert not Path("other.toml").exists()


def test_a_file_of_ones_own_is_not_built_among_the_series_of_the_package(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(places.TRACES.iterdir())
    assert cli.main(["scenarios", "build", written(TENANT, every="5")]) == 2
    assert "my.toml needs no build" in capsys.readouterr().err
    assert sorted(places.TRACES.iterdir()) == before


@pytest.mark.usefixtures("shaped")
def test_show_and_list_print_groups_and_units_of_the_story(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["scenarios", "show", "chat-gqa", "--served", "mistral-7b"]) == 0
    told = capsys.readouterr().out
    assert "mistral-7b, every request of azure-conv" in told
    assert "weights gib                        13.5\n" in told
    assert cli.main(["scenarios", "show", written(TENANT), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights_gib"] == pytest.approx(12.55, abs=0.01)
    assert cli.main(["scenarios", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line.partition(":")[0] for line in lines if not line.startswith(" ")]
    assert titles == [*dict.fromkeys(story.group for story in shipped()), "serving"]
    assert [line.split()[0] for line in lines if line.startswith("  serve-")] == [
        each.name for each in serving.shipped()
    ]
    assert cli.main(["scenarios", "list", "--json"]) == 0
    assert [each["group"] for each in json.loads(capsys.readouterr().out)] == [
        *(story.group for story in shipped()), *("serving" for _ in serving.shipped()),
    ]  # fmt: skip


def test_show_takes_a_scenario_of_the_serving_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["scenarios", "show", "serve-chat-bursty", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    story = serving.story_of("serve-chat-bursty")
    assert (told["base"], told["card_gib"]) == (story.base.name, story.base.card_gib)
    assert told["history_share"] == list(serving_worlds.history_share(story))
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'story = "Mine."\nbase = "chat"\nprofile = "RTX4090-Llama-3.1-8B"\nshed_s = 7\n'
    )
    assert cli.main(["scenarios", "show", str(mine)]) == 0
    said = capsys.readouterr().out
    assert "  shed s                             7\n" in said
    assert "RTX4090-Llama-3.1-8B\n" in said
    assert cli.main(["scenarios", "show", "serve-chatt-bursty"]) == 2
    assert "did you mean serve-chat-bursty?" in capsys.readouterr().err
    assert cli.main(["scenarios", "show", "serve-chat-gqa", "--served", "mistral-7b"]) == 2
    assert "state another base in a file" in capsys.readouterr().err
