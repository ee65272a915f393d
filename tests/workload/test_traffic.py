"""Traffic of serving worlds: single requests and the tenant by the second, cut into splits, kept in a file."""

from pathlib import Path

import numpy as np
import pytest

from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.workload import series, traffic
from rapgym.workload.trace import RequestTrace
from rapgym.workload.traffic import Traffic


def small() -> Traffic:
    served = RequestTrace(
        "served",
        np.array([0.5, 2.0, 2.0000004, 3.25, 7.0]),
        np.array([4, 5, 0, 7, 8]),
        np.array([1, 0, 3, 4, 5]),
    )
    return traffic.of(served, 1.0, np.array([9, 0, 3, 8]), {"note": "by hand"})


def test_requests_keep_their_times_from_the_start_on() -> None:
    made = small()
    # The first came before, the second asks for nothing, the last comes after the last second.
    assert made.arrival_us.tolist() == [1_000_000, 2_250_000]
    assert made.prompt_tokens.tolist() == [1, 7], "a request without a prompt has one token of it"
    assert made.output_tokens.tolist() == [3, 4]
    assert made.seconds == 4
    assert made.between(1, 2) == slice(0, 1)
    assert made.between(2, 4) == slice(1, 2)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "small.traffic"
    traffic.write(small(), path)
    again = traffic.read(path)
    for name in ("arrival_us", "prompt_tokens", "output_tokens", "tenant_tokens"):
        assert np.array_equal(getattr(again, name), getattr(small(), name)), name
    assert again.origin == {"note": "by hand"}
    content = path.read_bytes()
    traffic.write(again, path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda content: content[:-1], "not as long as it says"),
        (lambda content: content + b"\0" * 4, "not as long as it says"),
        (lambda content: b"x" + content, "no header line"),
        (lambda content: content.replace(b'"schema": 1', b'"schema": 9'), "another schema"),
        (lambda content: content.replace(b'"requests"', b'"requestz"'), "requests"),
        (lambda content: content[:-4] + b"\xff" * 4, "no fewer tokens than 0"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: object, fault: str) -> None:
    path = tmp_path / "small.traffic"
    traffic.write(small(), path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(InvalidTrace, match=fault):
        traffic.read(path)


def test_a_file_that_is_not_there_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidTrace, match="it is made again"):
        traffic.read(tmp_path / "none.traffic")


def test_impossible_traffic_is_refused() -> None:
    fine = small()
    one = np.array([1], dtype=np.int32)
    for arrival_us, fault in (([2_000_000, 1], "in order"), ([0, 4_000_000], "within its seconds")):
        with pytest.raises(InvalidTrace, match=fault):
            Traffic(
                np.array(arrival_us), fine.prompt_tokens, fine.output_tokens, fine.tenant_tokens, {}
            )
    with pytest.raises(InvalidTrace, match="a prompt and an output"):
        Traffic(fine.arrival_us, one, fine.output_tokens, fine.tenant_tokens, {})
    with pytest.raises(InvalidTrace, match="an output token at least"):
        Traffic(fine.arrival_us, fine.prompt_tokens, 0 * fine.output_tokens, fine.tenant_tokens, {})
    with pytest.raises(InvalidTrace, match="a request and a second"):
        Traffic(fine.arrival_us[:0], one[:0], one[:0], fine.tenant_tokens, {})


def test_days_are_split_in_whole_hours_and_an_hour_by_the_second() -> None:
    day = 24 * 3600
    assert traffic.spans(14 * day, "train", "days") == [(0, 10 * day)]
    assert traffic.spans(14 * day, "test", "days") == [(10 * day, 14 * day)], "without a gap"
    assert traffic.spans(14 * day, "fit", "days") == [(0, 204 * 3600)]
    assert traffic.spans(14 * day, "validation", "days") == [(204 * 3600, 240 * 3600)]
    assert traffic.spans(3600, "train", "time") == [(0, 2520)]
    assert traffic.spans(3600, "test", "time") == [(2700, 3600)]
    stretches = traffic.spans(3600, "train", "blocked")
    assert stretches == [(0, 442), (900, 1342), (1800, 2242), (2700, 3142)]
    with pytest.raises(InvalidSpec, match="no split 'all'"):
        traffic.spans(3600, "all", "time")


@pytest.mark.parametrize("scheme", ["time", "blocked", "days"])
def test_no_second_is_in_train_and_in_test(scheme: series.Scheme) -> None:
    whole = {
        split: {
            s for begin, end in traffic.spans(50 * 3600, split, scheme) for s in range(begin, end)
        }
        for split in series.SPLITS
    }
    assert not whole["train"] & whole["test"]
    assert whole["fit"] | whole["validation"] == whole["train"]
    assert not whole["fit"] & whole["validation"]
    assert whole["learn"] | whole["check"] == whole["fit"]
