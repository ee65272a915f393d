"""Workloads beside recorded memory: seconds by hand, pairing, names, series that depend on content alone."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym import cli
from rapgym.cli import own_traces as own_cli
from rapgym.errors import DataUnavailable, InvalidSpec, InvalidTrace
from rapgym.files import checked
from rapgym.scenarios import card, catalogue, changed, worlds
from rapgym.scenarios.story import GIB, Recorded
from rapgym.workload import names, series, trace
from rapgym.workload import own as own_traces
from rapgym.workload.trace import MemoryTrace, RequestTrace

MIB = 1 << 20


def memory(*samples: tuple[float, int], start_wall_s: float = math.nan) -> MemoryTrace:
    t_s, used_bytes = zip(*samples, strict=True)
    return MemoryTrace("memory", np.array(t_s), np.array(used_bytes), start_wall_s=start_wall_s)


def requests(seconds: int, start_wall_s: float = math.nan) -> RequestTrace:
    """One request a second, its prompt as long as the second's number."""
    at = np.arange(seconds)
    return RequestTrace("requests", at + 0.5, at + 1, np.full(seconds, 2), start_wall_s)


def test_a_second_holds_the_highest_of_its_instants_in_whole_mib() -> None:
    told = memory((0.0, MIB), (0.5, 5 * MIB), (0.75, 2 * MIB + 1), (3.0, MIB), (3.5, 0))
    # What held at 0.75 holds through seconds 1 and 2; the last sample holds to the end.
    assert own_traces.held_units(told, 0.0, 6).tolist() == [5, 3, 3, 1, 0, 0]
    # Seconds that begin between samples; a sample at the very end of one belongs to the next.
    assert own_traces.held_units(told, 0.5, 3).tolist() == [5, 3, 3]
    assert own_traces.held_units(told, 0.6, 3).tolist() == [5, 3, 3]


@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 9)), min_size=1, unique_by=lambda s: s[0]),
    st.integers(0, 8),
)  # fmt: skip
def test_held_units_equal_the_plain_loop(samples: list[tuple[int, int]], start: int) -> None:
    # Quarters of a second, exact in binary.
    told = sorted((quarter / 4, mib * MIB) for quarter, mib in samples)
    plain = []
    for second in range(12):
        begin, end = start / 4 + second, start / 4 + second + 1
        before = [used for t_s, used in told if t_s <= begin]
        inside = [used for t_s, used in told if begin < t_s < end]
        plain.append(max([before[-1] if before else told[0][1], *inside]) // MIB)
    assert own_traces.held_units(memory(*told), start / 4, 12).tolist() == plain


def beside(
    served: RequestTrace, told: MemoryTrace, pair: own_traces.Pairing = "clock"
) -> series.Series:
    return own_traces.beside(served, told, window=1, origin={"note": "a test"}, pair=pair)


def test_recordings_of_one_time_pair_by_wall_clock() -> None:
    # The memory begins 10 s after the requests, and says how old it is.
    told = memory(*((float(t), t * MIB) for t in range(100)), start_wall_s=1010.0)
    made = beside(requests(100, start_wall_s=1000.0), told)
    assert made.origin["pairing"] == "by wall clock"
    assert made.tenant_tokens[:, 0].tolist() == list(range(len(made)))
    # The first row holds what came in the second before it: from 9 to 10, number 10.
    assert made.prompt_tokens[0] == 10
    assert len(made) == 89, "until the requests end, at 99.5 of their clock"


@pytest.mark.parametrize(
    ("wall_s", "pair"), [(math.nan, "clock"), (5e8, "either"), (5e8, "start"), (1000.0, "start")]
)
def test_recordings_of_different_times_begin_together(
    wall_s: float, pair: own_traces.Pairing
) -> None:
    told = memory(*((float(t), t * MIB) for t in range(101)), start_wall_s=wall_s)
    made = beside(requests(90, start_wall_s=1000.0), told, pair)
    assert made.origin["pairing"] == "both from their start"
    assert made.tenant_tokens[:, 0].tolist() == list(range(89))
    assert made.prompt_tokens.tolist() == list(range(89)), "row t holds what came before second t"
    shorter = memory(*((float(t), MIB) for t in range(71)))
    assert len(beside(requests(90), shorter)) == 70, "as long as both last"


def test_two_wall_clocks_that_do_not_meet_are_refused() -> None:
    told = memory(*((float(t), MIB) for t in range(101)), start_wall_s=5e8)
    with pytest.raises(InvalidTrace, match=r"1985-11-05 00:53:20 to .* do not meet.*--pair start"):
        beside(requests(90, start_wall_s=1000.0), told)


def made_of(*output_tokens: int) -> series.Series:
    """A series of rows that each serve so many output tokens."""
    rows = len(output_tokens)
    output = np.array(output_tokens)
    ones, empty = np.ones(rows, dtype=np.int64), np.full(rows, "-", dtype=object)
    return series.Series(1, 9, ones, ones, output, ones, ones.reshape(rows, 1), empty, {})


@pytest.mark.parametrize(
    ("served", "says"),
    [
        ([1] * 63, "fills 63 windows of 1 s, but 64 are needed"),
        (
            [1] * 75 + [0] * 25,
            "its test part, from second 75 to 100 of 100, serves no output token",
        ),
        ([0] * 70 + [1] * 30, "its train part, from second 0 to 70 of 100, serves no output token"),
        ([1] * 24 + [0] * 23 + [1] * 53, "its validation-2 part, from second 24 to 47 of 100"),
    ],
)
def test_a_world_of_which_a_part_serves_nothing_is_refused(served: list[int], says: str) -> None:
    with pytest.raises(InvalidTrace, match=f"mine.*{says}"):
        own_traces.require_parts(made_of(*served), "mine", "time")
    own_traces.require_parts(made_of(*[1] * 100), "mine", "time")


def test_what_is_too_short_to_split_is_refused() -> None:
    with pytest.raises(InvalidTrace, match=r"have 50 s in common.*record at least 64 s"):
        beside(requests(90), memory((0.0, 1), (50.0, 2)))


def test_a_name_reads_back_and_says_what_it_may_hold() -> None:
    options = {"memory": "runs/m.csv.gz", "requests": "r.csv", "card": "80", "every": "2"}
    name = changed.name_of("chat-gqa", options)
    assert changed.options_of(name) == ("chat-gqa", options)
    assert changed.options_of(f"{name}-v0") == ("chat-gqa", options)
    with pytest.raises(InvalidSpec, match="rename the file"):
        changed.name_of("laptop", {"memory": "a,b.csv"})
    for wrong in ("laptop[]", "laptop[requests=r.csv]", "laptop[memory=]", "laptop[memory=m,x=1]",
                  "laptop[memory=m.csv", "[memory=m.csv]", "laptop[memory=m.csv][memory=m.csv]"):  # fmt: skip
        with pytest.raises(InvalidSpec, match="names no scenario"):
            catalogue.scenario(wrong)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a scenario on two small recordings in the folder where one works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    told = memory(*((float(t), (2 + t % 3) * GIB) for t in range(500)))
    trace.write_memory(told, Path("m.csv.gz"))
    trace.write_requests(requests(500), Path("r.csv.gz"))
    worlds.forget()
    return "chat-beside-code[memory=m.csv.gz,requests=r.csv.gz,card=30,window=7]"


@pytest.mark.usefixtures("shaped")
def test_the_limit_is_the_card_less_what_was_recorded(own: str) -> None:
    story = catalogue.scenario(own)
    assert story.every == 1, "the share of the scenario's own trace is not that of other requests"
    assert not story.headline
    whole = worlds.workload(story)
    assert whole.window_s == 7
    limit = card.limit_bytes(story, whole.tenant_tokens)
    second = np.arange(limit.size).reshape(limit.shape)
    assert (limit == (30 - 2 - second % 3) * GIB).all()
    assert catalogue.scenario(story.id) == catalogue.story_of(own) == story
    assert (worlds.world(story, "train").rows.limit_bytes > 0).all()


def test_the_same_content_gives_the_same_series_wherever_it_lies(own: str, tmp_path: Path) -> None:
    first = catalogue.scenario(own)
    content = worlds.workload_file(first).read_bytes()
    (tmp_path / "elsewhere").mkdir()
    for name in ("m.csv.gz", "r.csv.gz"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    moved = catalogue.scenario(own.replace("=m", "=elsewhere/m").replace("=r", "=elsewhere/r"))
    assert moved.workload == first.workload
    worlds.workload_file(first).unlink()
    assert worlds.workload_file(moved).read_bytes() == content
    assert worlds.workload(moved).origin["memory_sha256"] == checked.sha256_of(
        Path("elsewhere/m.csv.gz")
    )


def test_other_content_is_another_workload(own: str) -> None:
    before = catalogue.scenario(own)
    Path("m.csv.gz").unlink()
    trace.write_memory(memory(*((float(t), GIB) for t in range(500))), Path("m.csv.gz"))
    after = catalogue.scenario(own)
    assert after.workload != before.workload
    assert isinstance(before.tenant, Recorded)
    assert isinstance(after.tenant, Recorded)
    assert after.tenant.sha256 != before.tenant.sha256
    every = catalogue.scenario(own.replace("]", ",every=2]"))
    assert every.workload != after.workload


def test_what_is_not_there_or_no_number_is_refused(own: str) -> None:
    with pytest.raises(DataUnavailable, match="put the trace back"):
        catalogue.scenario(own.replace("=m.", "=absent."))
    Path("folder").mkdir()
    assert not names.is_shipped(str(Path("m.csv.gz").resolve())), "a path is no name"
    with pytest.raises(DataUnavailable, match="folder is no file"):
        catalogue.scenario(own.replace("m.csv.gz", "folder"))
    for wrong in ("card=big", "card=0", "every=1.5", "every=0"):
        with pytest.raises(InvalidSpec):
            catalogue.scenario(own.replace("card=30", wrong))
    with pytest.raises(InvalidSpec, match="no scenario is called"):
        catalogue.scenario(own.replace("chat-beside-code", "absent"))


def test_our_recording_is_what_the_scenario_says() -> None:
    story = catalogue.scenario("laptop")
    assert isinstance(story.tenant, Recorded)
    told = trace.read_memory(names.path_of(story.tenant.recording), "ours")
    assert told.t_s[-1] >= 600, "ten minutes at least"
    assert np.diff(told.t_s).max() < 5, "no hole"
    assert told.used_bytes.max() < story.card_gib * GIB
    assert told.start_wall_s > 1.7e9
    whole = worlds.workload(story)
    seconds = whole.tenant_tokens.size
    assert (whole.tenant_tokens.ravel() == own_traces.held_units(told, 0.0, seconds)).all()
    assert told.t_s[-1] - seconds < story.window_s, "all of it is used"


@pytest.mark.usefixtures("own")
def test_traces_show_tells_of_a_recording_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["traces", "show", "m.csv.gz"]) == 0
    told = capsys.readouterr().out
    assert "500" in told
    assert "used_gib" in told
    assert cli.main(["traces", "show", "r.csv.gz"]) == 0
    assert "prompt_tokens" in capsys.readouterr().out


NVIDIA_SMI = "timestamp, index, memory.used [MiB]\n" + "".join(
    f"2026/09/21 14:{13 + (20 + t) // 60:02d}:{(20 + t) % 60:02d}.000, {gpu}, {2048 * (1 + gpu)} MiB\n"
    for t in range(500)
    for gpu in (0, 1)
)
LOG = "".join(
    f'{{"created": {1_790_000_000 + t}, "usage": {{"prompt_tokens": 9, "completion_tokens": 2}}}}\n'
    for t in range(500)
)


@pytest.mark.usefixtures("own", "shaped")
def test_files_of_others_make_a_world_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Path("smi.csv").write_text(NVIDIA_SMI)
    Path("log.jsonl").write_text(LOG)
    name = "laptop[memory=smi.csv,requests=log.jsonl,card=30,timezone=UTC,gpu=1]"
    story = catalogue.scenario(name)
    assert story.reading == "timezone=UTC;gpu=1"
    whole = worlds.workload(story)
    assert whole.origin["pairing"] == "by wall clock"
    assert (whole.tenant_tokens == 4096).all()
    own_cli.tried([story])
    told = capsys.readouterr().err
    for line in ("log.jsonl: read as OpenAI", "smi.csv: read as nvidia-smi", "times without a zone are read as UTC",
                 "requests and memory are paired: by wall clock"):  # fmt: skip
        assert line in told
    other = catalogue.scenario(name.replace("gpu=1", "gpu=0"))
    assert other.workload != story.workload
    assert (worlds.workload(other).tenant_tokens == 2048).all()
    with pytest.raises(InvalidTrace, match="choose one with --gpu"):
        worlds.workload(catalogue.scenario(name.replace(",gpu=1", "")))
    with pytest.raises(InvalidTrace, match="do not meet"):
        worlds.workload(catalogue.scenario(name.replace("UTC", "Asia/Tokyo")))
    paired = catalogue.scenario(name.replace("UTC", "Asia/Tokyo").replace("]", ",pair=start]"))
    assert worlds.workload(paired).origin["pairing"] == "both from their start"
    with pytest.raises(InvalidSpec, match="pair is start"):
        catalogue.scenario(name.replace("]", ",pair=end]"))
    assert cli.main(["scenarios", "new", "mine.toml", "--like", "laptop"]) == 0
    text = Path("mine.toml").read_text("utf-8").replace('"azure-conv"', '"log.jsonl"')
    text = (
        text.replace("every = 4", "every = 1")
        .replace("window_s = 7\n", "")
        .replace("recordings/python-project.csv.gz", "smi.csv")
    )
    Path("mine.toml").write_text(f'reading = "timezone=UTC;gpu=1"\n{text}', encoding="utf-8")
    assert catalogue.scenario("mine.toml").workload == story.workload
    assert cli.main(["traces", "show", "log.jsonl"]) == 0
    assert "requests_per_s" in capsys.readouterr().out
