"""Scenarios of no list: what a test is about, on the traffic of one that is shipped."""

from dataclasses import replace

from rapgym.model.shapes import BF16
from rapgym.scenarios.catalogue import scenario
from rapgym.scenarios.story import Scenario


def alone() -> Scenario:
    """No tenant: the KV cache of the batch alone decides what fits."""
    return replace(scenario("laptop"), name="alone", tenant=None, offsets=1, card_gib=22)


def noticed() -> Scenario:
    """A tenant that says one second ahead what it will take."""
    return replace(scenario("chat-beside-code"), name="noticed", notice_s=1)


def mixed() -> Scenario:
    """A grouped-query model beside a tenant whose KV cache is four times as heavy a token, in 16 bits."""
    return in_16_bits("chat-mixed-8bit", "mixed", card_gib=40)


def code() -> Scenario:
    """Rows of two seconds, in 16 bits."""
    return in_16_bits("code-8bit", "code", card_gib=44)


def in_16_bits(of: str, name: str, card_gib: float) -> Scenario:
    return replace(scenario(of), name=name, card_gib=card_gib, form=BF16, table="smollm2-135m",
                   restore_s=0.5)  # fmt: skip
