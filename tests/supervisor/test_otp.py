"""Our supervisor does what OTP's did, scenario by scenario, but for the differences listed here."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from mbactor import observe
from tests.supervisor.otp.play import play
from tests.supervisor.otp.scenarios import ENTRY, TRANSCRIPTS, erlang_is_here, record, scenarios
from tests.supervisor.test_supervisor import Events

RECORDED = json.loads(TRANSCRIPTS.read_text())
SCENARIOS = {one["name"]: one for one in scenarios()}

# Each difference: why, and the lines that only OTP (-) or only we (+) have.
GAVE_UP = (
    "Giving up is a kind of end of its own: OTP says `shutdown`, as after work that is done.",
    '- ["end", "shutdown"]',
    '+ ["end", "gave_up"]',
)
BELOW_GAVE_UP = (GAVE_UP[0], '- ["down", "sub", "shutdown"]', '+ ["down", "sub", "gave_up"]')
HELD = "What an operator stopped stays stopped until an operator starts it: no crash next door undoes that."
AT_ONCE = "Queries are answered at once, of the state at that moment: OTP's wait for their turn, however long that is."
BREAKS_OFF = "A stop breaks off what is under way: OTP looks at it after the attempt."
NO_TEMPLATE = "Each child of a dynamic supervisor has a specification: OTP counts its one template, always."

DIFFERENCES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        [
            "two deaths of one_for_all count once",
            "two deaths of one_for_one count twice",
            "in rest_for_one the later listed, seen first, costs two",
            "an intensity of none gives up at a permanent child's clean end",
            "an intensity of two allows two",
            "a child that never starts again is tried as often as the budget allows",
            "failed attempts of a group count, one each",
            "giving up stops each child by its own rule, the last first",
            "a permanent supervisor that shuts itself down is restarted and counted",
        ],
        GAVE_UP,
    ),
    **dict.fromkeys(
        [
            "a temporary supervisor that gave up is forgotten",
            "a restarted supervisor that does not come up is tried again and counted",
            "added children vanish when their supervisor is restarted",
        ],
        BELOW_GAVE_UP,
    ),
    **dict.fromkeys(
        ["a permanent supervisor that gave up is restarted and its parent's budget charged", "nested budgets multiply"],
        (*BELOW_GAVE_UP, *BELOW_GAVE_UP[1:], *GAVE_UP[1:]),
    ),
    "a transient supervisor that gave up": (
        "Giving up is abnormal, so a transient supervisor that did is restarted: OTP leaves the branch down, silently.",
        *BELOW_GAVE_UP[1:],
        '- ["which", [["sub", "stopped"], ["a", "running"]]]',
        '+ ["init", "sub"]',
        '+ ["start", "x"]',
        '+ ["which", [["sub", "running"], ["a", "running"]]]',
    ),
    "a significant transient supervisor that gave up": (
        "Giving up is never a significant completion: OTP ends the whole tree as if its work were done.",
        *BELOW_GAVE_UP[1:],
        '- ["down", "a", "shutdown"]',
        '- ["end", "shutdown"]',
        '+ ["init", "sub"]',
        '+ ["start", "x"]',
    ),
    "a group restart revives children an operator stopped": (
        HELD,
        '- ["start", "b"]',
        '- ["which", [["c", "running"], ["b", "running"], ["a", "running"]]]',
        '+ ["which", [["c", "running"], ["b", "stopped"], ["a", "running"]]]',
    ),
    "rest_for_one revives what an operator stopped after it": (
        HELD,
        '- ["start", "c"]',
        '- ["which", [["c", "running"], ["b", "running"], ["a", "stopped"]]]',
        '+ ["which", [["c", "stopped"], ["b", "running"], ["a", "stopped"]]]',
    ),
    "deaths that wait behind a call are absorbed by their group's restart": (
        HELD,
        '- ["start", "c"]',
        '- ["which", [["c", "running"], ["b", "running"], ["u", "running"], ["a", "running"]]]',
        '+ ["which", [["c", "stopped"], ["b", "running"], ["u", "running"], ["a", "running"]]]',
    ),
    "terminate_child of the one that failed, in a group": (
        "The others of a group restart come back without the one that is stopped: OTP leaves them down for ever.",
        '- ["which", [["c", "stopped"], ["b", "stopped"], ["a", "running"]]]',
        '+ ["start", "c"]',
        '+ ["which", [["c", "running"], ["b", "stopped"], ["a", "running"]]]',
    ),
    "terminate_child calls the waiting retry off": (
        "terminate_child breaks off a start that is under way, which may never end: OTP's waits for that.",
        '- ["fail", "a"]',
        '- ["restart", "ok"]',
        '- ["start", "a"]',
        '+ ["fail", "a"]',
        '+ ["restart", "failed"]',
    ),
    "queries wait for their turn": (
        AT_ONCE,
        '- ["which", [["c", "stopped"], ["b", "restarting"], ["a", "running"]]]',
        '+ ["which", [["c", "stopping"], ["b", "running"], ["a", "restarting"]]]',
    ),
    "children stop one at a time, the last first, each by its own rule": (
        "No time to stop is none: OTP asks all the same, and one that dies of being asked was not killed.",
        '- ["down", "c", "shutdown"]',
        '+ ["down", "c", "killed"]',
    ),
    "a stop wins over the next attempt": (BREAKS_OFF, '- ["fail", "a"]'),
    "a stop wins over the next attempt of a group": (
        BREAKS_OFF,
        '- ["start", "a"]',
        '- ["fail", "b"]',
        '- ["down", "a", "shutdown"]',
    ),
    "dynamic children come and go": (NO_TEMPLATE, '- ["count", 1, 2, 0, 2]', '+ ["count", 2, 2, 0, 2]'),
    "a dynamic child that does not start is forgotten, and so is one that ignores it": (
        NO_TEMPLATE,
        '- ["count", 1, 0, 0, 0]',
        '+ ["count", 0, 0, 0, 0]',
    ),
    "dynamic temporary children are forgotten at any end": (
        NO_TEMPLATE,
        '- ["count", 1, 0, 0, 0]',
        '+ ["count", 0, 0, 0, 0]',
    ),
    "dynamic transient children are forgotten at a clean end": (
        NO_TEMPLATE,
        '- ["count", 1, 0, 0, 0]',
        '+ ["count", 0, 0, 0, 0]',
    ),
    "a dynamic child that spends the budget": (
        "Each dynamic child has a budget of its own; one that spends it is forgotten, and the others go on.",
        '- ["down", "y", "shutdown"]',
        '- ["end", "shutdown"]',
        '- ["count", "unavailable"]',
        '+ ["count", 1, 1, 0, 1]',
    ),
    "a dynamic child that ignores its restart": (
        "It is forgotten: OTP keeps a ghost that it counts as active.",
        '- ["count", 1, 1, 0, 1]',
        '+ ["count", 0, 0, 0, 0]',
    ),
    "a dynamic child whose retry waits is terminated": (
        BREAKS_OFF + " And OTP then counts one active child less than none.",
        '- ["fail", "x"]',
        '- ["count", 1, -1, 0, 0]',
        '+ ["count", 0, 0, 0, 0]',
    ),
}


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:
    with observe.observing(Events()):
        yield


@pytest.mark.parametrize("name", SCENARIOS)
def test_our_supervisor_does_what_otp_did(name: str) -> None:
    _, *expected = DIFFERENCES.get(name, ("",))
    theirs: list[ENTRY] = RECORDED["transcripts"][name]
    assert sorted(_difference(theirs, play(SCENARIOS[name]))) == sorted(expected)


def test_every_scenario_was_recorded_and_every_difference_is_of_one() -> None:
    assert list(RECORDED["transcripts"]) == list(SCENARIOS)
    assert DIFFERENCES.keys() <= SCENARIOS.keys()
    assert int(RECORDED["otp"]) >= 25


@pytest.mark.slow
@pytest.mark.skipif(not erlang_is_here(), reason="no Erlang here")
def test_otp_still_does_what_was_recorded() -> None:
    played: dict[str, Any] = record()["transcripts"]
    assert {name: log for name, log in played.items() if log != RECORDED["transcripts"][name]} == {}


def _difference(theirs: list[ENTRY], ours: list[ENTRY]) -> list[str]:
    lines = difflib.ndiff([json.dumps(one) for one in theirs], [json.dumps(one) for one in ours])
    return [line for line in lines if line[0] in "-+"]
