"""Of the replicas of a host those leave their queue group that cannot take messages, and never all of them."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.kernel.groups import Groups

ONE = "place"


def test_a_replica_leaves_what_another_has_room_for_and_comes_back_when_it_has_room_itself() -> None:
    groups = Groups()
    question, about = groups.ask({"place", "look"})
    assert about == {"place", "look"}
    assert groups.heard(question, {"place"}, {"place", "look"}) == {"place"}
    assert groups.asking
    assert groups.over(question) == set(), "nobody has room for the other, and it is still there"
    assert not groups.asking
    assert groups.back({"place", "look"}) == {"place"}
    assert groups.away == set()


def test_it_stays_where_it_has_room_again_when_the_answer_comes() -> None:
    groups = Groups()
    question, _ = groups.ask({"place"})
    assert groups.heard(question, {"place"}, ()) == set()


def test_it_asks_after_what_it_left_too_and_comes_back_where_nobody_has_room_any_more() -> None:
    groups = Groups()
    question, _ = groups.ask({"place", "look"})
    groups.heard(question, {"place", "look"}, {"place", "look"})
    assert not groups.asking
    question, about = groups.ask({"note"})
    assert about == {"place", "look", "note"}
    assert groups.heard(question, {"look"}, {"look"}) == set()
    assert groups.over(question) == {"place"}
    assert groups.back({"place"}) == {"place"}
    assert groups.away == {"look"}


def test_who_is_away_tells_nobody_that_it_has_room_and_who_has_told_so_does_not_leave_by_what_it_asked_before() -> None:
    groups = Groups()
    question, _ = groups.ask({"place", "look"})
    assert groups.tells("place")
    assert groups.heard(question, {"place", "look"}, {"place", "look"}) == {"look"}
    assert not groups.tells("look")


def test_what_was_heard_of_others_before_nobody_was_found_there_counts_for_nothing() -> None:
    groups = Groups()
    question, _ = groups.ask({"place"})
    groups.heard(question, {"place"}, {"place"})
    question, _ = groups.ask({"place"})
    assert groups.back(groups.away) == {"place"}
    assert groups.heard(question, {"place"}, {"place"}) == set()


def test_an_answer_to_an_earlier_question_counts_for_nothing() -> None:
    groups = Groups()
    earlier, _ = groups.ask({"place"})
    groups.ask({"place"})
    assert groups.heard(earlier, {"place"}, {"place"}) == set()
    assert groups.over(earlier) == set()
    assert groups.asking


class Replicas:
    """Replicas of one host, with questions and answers that take as long as they like."""

    def __init__(self, many: int) -> None:
        self.groups = [Groups() for _ in range(many)]
        self.room = [True] * many
        self.latest = [0] * many
        self.questions: list[tuple[int, int, int]] = []
        """Who asks, whom, and the number of the question."""
        self.answers: list[tuple[int, int]] = []
        """To whom, and for which question."""

    def unwilling(self, one: int) -> set[str]:
        return set() if self.room[one] else {ONE}

    def asks(self, one: int) -> None:
        self.latest[one], about = self.groups[one].ask(self.unwilling(one))
        if about:
            self.questions += [(one, other, self.latest[one]) for other in range(len(self.groups)) if other != one]

    def is_asked(self, asks: int, one: int, question: int) -> None:
        if self.room[one] and self.groups[one].tells(ONE):
            self.answers.append((asks, question))

    def hears(self, one: int, question: int) -> None:
        self.groups[one].heard(question, {ONE}, self.unwilling(one))

    def hears_no_more(self, one: int) -> None:
        self.groups[one].back(self.groups[one].over(self.latest[one]))

    def looks(self, one: int) -> None:
        if self.room[one]:
            self.groups[one].back({ONE})

    def do(self, random: Random) -> None:
        """Anything that may happen next."""
        one = random.randrange(len(self.groups))
        match random.randrange(16):
            case 0 | 1 | 2 | 3:
                self.room[one] = not self.room[one]
            case 4:
                self.looks(one)
            case 5 if random.random() < 0.2:
                self.hears_no_more(one)
            case 6:
                self.asks(one)
            case 7 | 8 | 9 | 10 if self.questions:
                self.is_asked(*self.questions.pop(random.randrange(len(self.questions))))
            case 11 | 12 if self.answers:
                self.hears(*self.answers.pop(random.randrange(len(self.answers))))

    def away(self) -> list[bool]:
        return [bool(one.away) for one in self.groups]


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**32))
def test_however_long_questions_and_answers_take_not_all_are_away(many: int, seed: int) -> None:
    replicas, random = Replicas(many), Random(seed)
    for _ in range(500):
        replicas.do(random)
        assert not all(replicas.away())


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**32), st.data())
def test_whatever_has_happened_those_with_room_serve_it_or_all_that_live(many: int, seed: int, data: Any) -> None:
    replicas, random = Replicas(many), Random(seed)
    for _ in range(50):
        replicas.do(random)
    replicas.room = data.draw(st.lists(st.booleans(), min_size=many, max_size=many))
    living = sorted(data.draw(st.sets(st.integers(0, many - 1), min_size=1)))
    for _ in range(2):
        for one in living:
            replicas.looks(one)
            replicas.asks(one)
            for asks, other, question in replicas.questions:
                if other in living:
                    replicas.is_asked(asks, other, question)
            for answer in replicas.answers:
                replicas.hears(*answer)
            replicas.questions, replicas.answers = [], []
            replicas.hears_no_more(one)
    serve = [one for one in living if not replicas.away()[one]]
    assert serve == ([one for one in living if replicas.room[one]] or living)
