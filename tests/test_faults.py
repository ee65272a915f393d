"""The deliberate faults of `make mutations` can be made: their places stand in the code, their tests exist."""

from pathlib import Path

import mutations
import pytest

from rapgym.files import places

TESTS = Path(__file__).parent


@pytest.mark.parametrize("fault", mutations.FAULTS, ids=lambda fault: fault.what)
def test_the_place_of_a_fault_stands_in_the_code(fault: mutations.Fault) -> None:
    source = (places.PACKAGE / f"{fault.module}.py").read_text("utf-8")
    assert fault.before in source
    assert fault.before != fault.after


def test_the_tests_that_faults_are_tried_on_exist() -> None:
    assert [name for name in mutations.TESTS if not (TESTS / name).is_file()] == []
    assert {*mutations.OWN.values()} <= {*mutations.TESTS}
