"""Who answers a request to all is waited for, as long as it may be and no longer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mbactor.transport import Address
from mbactor.transport.responders import Gathering, Responders

ALL = Address("shop.example", "/all")
OTHER = Address("other.example", "/all")


def learn(responders: Responders, *queues: str, id: str = "0", address: Address = ALL) -> None:
    """One request to all, from beginning to end."""
    gathering = responders.begin(id, address, 0)
    for queue in queues:
        gathering.acked((queue, f"id-{queue}"))
        gathering.answered((queue, f"id-{queue}"))
    gathering.end_window()
    responders.end(gathering, 0)


def test_the_first_waits_for_the_window_and_the_next_for_those_that_answered() -> None:
    responders = Responders()
    learn(responders, "a", "b")
    gathering = responders.begin("1", ALL, 1)
    gathering.answered(("a", "id-a"))
    assert not gathering.over
    gathering.acked(("b", "id-other"))  # another replica of the same queue
    assert gathering.complete
    assert not gathering.over
    gathering.answered(("b", "id-other"))
    assert gathering.over
    assert not responders.begin("2", OTHER, 1).complete, "another address has its own"


def test_nobody_is_over_after_the_window_and_an_empty_one_is_not_known() -> None:
    responders = Responders()
    learn(responders)
    gathering = responders.begin("1", ALL, 0)
    assert not gathering.complete
    gathering.end_window()
    assert gathering.over


def test_one_that_has_taken_it_is_waited_for_after_the_window_and_named_where_it_does_not_answer() -> None:
    responders = Responders()
    gathering = responders.begin("1", ALL, 0)
    gathering.acked(("b", "2"))
    gathering.acked(("a", "1"))
    gathering.answered(("a", "1"))
    gathering.end_window()
    assert not gathering.over
    assert gathering.silent == [("b", "2")]
    responders.end(gathering, 0)  # its time budget is spent
    assert not responders.begin("2", ALL, 0).complete
    learn(responders, "a")
    gathering = responders.begin("3", ALL, 0)
    assert gathering._known == {"a", "b"}, "nobody has said that it is gone"
    gathering.left("b")
    assert gathering._known == {"a"}


def test_where_the_bus_knows_how_many_get_it_there_is_no_window() -> None:
    responders = Responders()
    assert responders.begin("1", ALL, 0, receivers=0).over
    gathering = responders.begin("2", ALL, 0, receivers=2)
    gathering.answered(("a", "1"))
    assert not gathering.over
    assert gathering.answered(("a", "2"))
    assert gathering.over
    assert not gathering.answered(("a", "2")), "an answer counts once"


def test_who_has_answered_before_and_says_nothing_is_missed_until_it_is_known_to_be_gone() -> None:
    responders = Responders()
    learn(responders, "a", f"id-b@{ALL.host}")
    for announced in (False, True):
        gathering = responders.begin("1", ALL, 0)
        gathering.answered(("a", "id-a"))
        assert not gathering.over
        if announced:
            responders.announced([ALL.host])
        gathering.end_window()
        assert gathering.over
        assert gathering.missed.keys() == {f"id-b@{ALL.host}"}
        responders.end(gathering, 0)
    gathering = responders.begin("2", ALL, 0)
    gathering.answered((f"id-b@{ALL.host}", "id-b"))
    assert gathering.missed.keys() == {"a"}
    assert gathering.unheard == [("", "")], "any of its queue may have it"
    gathering.left("a")
    assert gathering.unheard == []
    responders.end(gathering, 0)
    assert responders.begin("3", ALL, 0).missed.keys() == {f"id-b@{ALL.host}"}


def test_where_the_bus_knows_how_many_get_it_so_many_are_missed() -> None:
    responders = Responders()
    learn(responders, "a", "b")
    gathering = responders.begin("1", ALL, 0, receivers=3)
    gathering.answered(("a", "id-a"))
    assert gathering.unheard == [("", ""), ("", "")]
    gathering.refused()
    gathering.end_window()
    assert gathering.unheard == [("", "")]
    gathering.answered(("c", "id-c"))
    assert gathering.unheard == []
    responders.end(gathering, 0)
    assert responders.begin("2", ALL, 0).missed.keys() == {"a", "c"}, "the bus would have given it to b"


def test_what_is_known_is_forgotten_when_a_late_answer_comes_and_after_a_day() -> None:
    responders = Responders()
    learn(responders, "a", id="1")
    responders.late("7", 0)
    assert responders.begin("2", ALL, 0)._known == {"a"}
    responders.late("1", 59)
    assert not responders.begin("3", ALL, 59)._known
    learn(responders, "a", id="4")
    responders.late("4", 61)
    assert responders.begin("5", ALL, 61)._known, "so late says nothing of who is there now"
    assert not responders.begin("6", ALL, 24 * 3600 + 1)._known


def test_an_announcement_concerns_the_hosts_it_names() -> None:
    responders = Responders()
    learn(responders, "a")
    learn(responders, "a", address=OTHER)
    running = responders.begin("1", ALL, 0)
    responders.announced([ALL.host])
    running.answered(("a", "1"))
    assert not running.complete, "one that is on its way waits for the window"
    running.end_window()
    responders.end(running, 0)
    assert not responders.begin("2", ALL, 0)._known, "what it found may lack the new one"
    assert responders.begin("3", OTHER, 0)._known == {"a"}


class Multicasts(RuleBasedStateMachine):
    """Replicas come and go while requests to all run; a message takes any time within the window."""

    def __init__(self) -> None:
        super().__init__()
        self.responders = Responders()
        self.serving: dict[str, int] = {}
        self.sent = 0
        self.running: dict[str, tuple[Gathering, set[str], set[str]]] = {}
        """Of each request: who was there when it was sent, and who has not said anything yet."""
        self.expected: dict[str, set[str]] = {}
        """Of each request: those that had taken one before."""
        self.stood: dict[str, set[str]] = {}
        """Of each request: those that stood still when its window ended."""
        self.still: set[str] = set()
        self.late: dict[str, list[str]] = {}
        """The requests that were over before who stands still has said anything."""
        self.have_taken: set[str] = set()
        """Those of which the asker has heard since they came."""

    @rule(queue=st.sampled_from("abcd"))
    def comes(self, queue: str) -> None:
        if queue not in self.serving:
            self.responders.announced([ALL.host])
        self.serving[queue] = self.serving.get(queue, 0) + 1

    @precondition(lambda self: self.serving)
    @rule(data=st.data())
    def goes(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from(sorted(self.serving)))
        del self.serving[queue]
        self.still.discard(queue)
        self.have_taken.discard(queue)
        self.late.pop(queue, None)
        for _, there, quiet in self.running.values():
            if queue in quiet:  # it had it, and dies with it
                quiet.discard(queue)
                there.discard(queue)

    @precondition(lambda self: len(self.running) < 3)
    @rule()
    def is_sent(self) -> None:
        self.sent += 1
        there = set(self.serving)
        gathering = self.responders.begin(str(self.sent), ALL, 0)
        self.running[str(self.sent)] = (gathering, there, set(there))
        self.expected[str(self.sent)] = set(self.have_taken)

    @precondition(lambda self: self.serving)
    @rule(data=st.data())
    def stands_still(self, data: st.DataObject) -> None:
        self.still.add(data.draw(st.sampled_from(sorted(self.serving))))

    @precondition(lambda self: self.still)
    @rule(data=st.data())
    def goes_on(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from(sorted(self.still)))
        self.still.discard(queue)
        for id in self.late.pop(queue, []):
            self.responders.late(id, 0)

    @precondition(lambda self: any(quiet - self.still for _, _, quiet in self.running.values()))
    @rule(data=st.data(), answers=st.booleans())
    def is_taken(self, data: st.DataObject, *, answers: bool) -> None:
        id = data.draw(st.sampled_from([id for id, (_, _, quiet) in self.running.items() if quiet - self.still]))
        gathering, _, quiet = self.running[id]
        queue = data.draw(st.sampled_from(sorted(quiet - self.still)))
        quiet.discard(queue)
        (gathering.answered if answers else gathering.acked)((queue, f"id-{queue}"))

    @precondition(lambda self: any(gathering.silent for gathering, _, _ in self.running.values()))
    @rule(data=st.data())
    def is_answered(self, data: st.DataObject) -> None:
        gathering = data.draw(st.sampled_from([g for g, _, _ in self.running.values() if g.silent]))
        gathering.answered(gathering.silent[0])

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def window_ends(self, data: st.DataObject) -> None:
        """All that got it have said so by then, but for those that stand still; of those that went, that was learnt."""
        gathering, _, quiet = self.running[data.draw(st.sampled_from(sorted(self.running)))]
        for queue in sorted(quiet - self.still):
            gathering.acked((queue, f"id-{queue}"))
        quiet &= self.still
        self.stood[gathering.id] = set(quiet)
        for queue in gathering.missed:
            if queue not in self.serving:
                gathering.left(queue)
        gathering.end_window()

    @invariant()
    def nobody_who_was_there_is_missed(self) -> None:
        for id, (gathering, there, _) in list(self.running.items()):
            if gathering.over:
                del self.running[id]
                missed = there - gathering.queues
                expected = self.expected.pop(id)
                stood = self.stood.pop(id, set()) | (self.still - expected)
                assert missed <= stood, f"{missed - stood} had it, and was not waited for"
                assert missed & expected & self.have_taken <= gathering.missed.keys(), "it stands still, and is there"
                self.responders.end(gathering, 0)
                for queue in missed:
                    if queue in self.still:
                        self.late.setdefault(queue, []).append(id)
                    else:
                        self.responders.late(id, 0)
                self.have_taken |= gathering.queues & self.serving.keys()


TestMulticasts = Multicasts.TestCase
TestMulticasts.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.integers(0, 2)), max_size=20))
def test_over_is_when_all_that_took_it_have_answered(events: list[tuple[bool, str, int]]) -> None:
    gathering = Responders().begin("1", ALL, 0)
    gathering.end_window()
    took: set[tuple[str, str]] = set()
    answered: set[tuple[str, str]] = set()
    for answers, queue, number in events:
        by = (queue, str(number))
        took.add(by)
        if answers:
            assert gathering.answered(by) == (by not in answered)
            answered.add(by)
        else:
            gathering.acked(by)
        assert gathering.over == (took == answered)
        assert set(gathering.silent) == took - answered
