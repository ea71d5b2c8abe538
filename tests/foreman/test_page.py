"""The page of a history: what it shows, that nothing of an author's becomes markup, and its scale of time."""

from __future__ import annotations

import datetime as dt
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mbactor.foreman.model.outcome import FlowSummary, StepRecord, Subflow
from mbactor.foreman.model.status import STEP_STATUSES, StepStatus
from mbactor.foreman.model.timescale import scale_of
from mbactor.foreman.page import history_page

AT = dt.datetime(2026, 5, 1, 12, 0, tzinfo=dt.UTC)
KEY = "1-42-0123456789abcdef"


def at(seconds: float) -> dt.datetime:
    return AT + dt.timedelta(seconds=seconds)


def step(number: int, node: str, begin: float = 0, took: float | None = 1, **more: Any) -> StepRecord:
    fields: dict[str, Any] = {"status": "completed", "created_at": at(begin), "started_at": at(begin + 0.1)} | more
    ended = None if took is None else at(begin + 0.1 + took)
    return StepRecord(step_key=f"1-{number}-0123456789abcdef", node=node, ended_at=ended, **fields)


def flow(**more: Any) -> FlowSummary:
    fields: dict[str, Any] = {"status": "completed", "workflow": "https://x.example:428/w", "workflow_name": "Name"}
    return FlowSummary(flow_key=KEY, thread_key=KEY, started_at=AT, updated_at=at(9), **(fields | more))


class Read(HTMLParser):
    """What a browser would make of the page: its texts, and each element with its attributes."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, kind: str) -> int:
        return sum(kind in (attributes.get("class") or "").split() for _, attributes in self.elements)


def page(steps: list[StepRecord], **more: Any) -> Read:
    return Read(history_page(flow(**more), steps, at(10)))


def test_a_page_shows_each_step_with_its_bar_its_numbers_and_its_error() -> None:
    error = {"error": "card refused", "statusCode": 402, "trace": "Traceback:\n  line 7"}
    inner = Subflow(flow_key="1-43-0123456789abcdee", workflow_name="Inner", steps=[step(3, "deep", 2)])
    steps = [
        step(1, "intake"),
        step(2, "call", 1, 3, subflow=inner),
        step(4, "pay", 5, 0.25, status="failed", attempt=1, runs=3, lost=1, error=error),
        step(5, "join", 6, reducers={"sum_x": "add (prefix sum_)", "y": "replace (default)"},
             winners={"y": "1-1-0123456789abcdef"}),
        step(6, "ask", 7, None, status="interrupted"),
        step(7, "later", 8, None, status="pending", started_at=None),
    ]  # fmt: skip
    read = page(steps, status="failed", error="card refused", priority=7, fairness_key="tenant",
                concurrency_key="customer <7>", concurrency_limit=3)  # fmt: skip
    for text in ("Name", KEY, "intake", "deep", "250ms", "card refused", "Traceback:\n  line 7", "3 runs", "1 lost", "3, 1 lost", "tenant",
                 "customer <7>", "(at most 3 at once)",
                 "sum_x", "Inner", "12:00:05.100", "2026-05-01 12:00:00.000 UTC"):  # fmt: skip
        assert any(text in one for one in read.texts), text
    assert [read.count("bar"), read.count("wait"), read.count("hollow")] == [6, 7, 1]
    assert any("by replace (default), from " in one for one in read.texts)
    rows = {attributes["id"] for tag, attributes in read.elements if tag == "tr" and "id" in attributes}
    links = {attributes["href"] for tag, attributes in read.elements if tag == "a"}
    assert links == {f"#{row}" for row in rows}


def test_a_hundred_branches_stand_in_one_row_that_opens() -> None:
    branches = [step(n + 2, "branch", 1, status="failed" if n == 7 else "completed",
                     predecessor="1-1-0123456789abcdef") for n in range(100)]  # fmt: skip
    read = page([step(1, "split"), *branches])
    assert read.texts.count("1 failed") == 1
    assert any("\u00d7 100" in one for one in read.texts)
    details = [tag for tag, _ in read.elements if tag == "details"]
    assert len(details) == 1 + 101
    few = page([step(1, "split"), *branches[:5]])
    assert not any("\u00d7 5" in one for one in few.texts)


def test_a_question_that_waits_for_days_does_not_hide_the_rest() -> None:
    steps = [step(1, "intake", 0, 0.5), step(2, "ask", 1, None, status="interrupted")]
    text = history_page(flow(), steps, at(86400))
    (width,) = re.findall(r'class="bar completed" style="left:0.000%;width:([\d.]+)%', text)
    assert float(width) > 20
    assert "nothing ran for 23h 59m" in text


def test_the_wait_for_an_answer_is_neither_work_nor_hides_the_rest() -> None:
    steps = [
        step(1, "intake", 0, 0.5),
        step(2, "ask", 0.5, 86400, runs=2, answered_at=at(86399.6)),
        step(3, "pay", 86401, 0.5),
    ]
    text = history_page(flow(), steps, at(86402))
    widths = re.findall(r'class="bar (\w+)(?: hollow)?" style="left:[\d.]+%;width:([\d.]+)%', text)
    assert [status for status, _ in widths] == ["completed", "interrupted", "completed", "completed"]
    assert min(float(width) for status, width in widths if status == "completed") > 10
    assert "nothing ran for 23h 59m" in text
    read = Read(text)
    assert read.texts.count("waited 23h 59m for an answer") == 1
    assert read.texts[read.texts.index("work") + 1] == "2s"
    assert "waited for an answer" in read.texts, "the colour is explained"


def test_a_step_that_is_put_off_says_until_when() -> None:
    put_off = step(2, "tries", 1, None, status="pending", started_at=None, due_at=AT + dt.timedelta(days=1))
    told = f"due {AT + dt.timedelta(days=1):%Y-%m-%d %H:%M:%S} UTC"
    assert told in Read(history_page(flow(), [step(1, "intake"), put_off], at(10))).texts


def test_a_step_that_was_given_up_says_why() -> None:
    given_up = step(2, "offer", status="cancelled", cancel_reason="its fan-in went on <without> this branch")
    assert "its fan-in went on <without> this branch" in Read(history_page(flow(), [given_up], at(10))).texts


def test_the_label_of_a_tick_is_not_half_under_a_cut() -> None:
    text = history_page(flow(), [step(1, "offer", 0, 3), step(2, "pay", 3600, 1)], at(4000))
    axis = re.findall(r'class="tick" style="left:([\d.]+)%">(?:<span>(.*?)</span>)?', text)
    (cut,) = {float(left) for left in re.findall(r'class="cut" style="left:([\d.]+)%', text)}
    told = [float(left) for left, label in axis if label]
    assert "3s" not in [label for _, label in axis]
    assert [left for left in told if cut - 5 < left <= cut] == []
    assert len(told) >= 3


def test_a_page_needs_nothing_from_anywhere_and_lets_nothing_run() -> None:
    text = history_page(flow(), [step(1, "a")], at(10))
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    assert not re.search(r"<script|<link|<img|<iframe|src=|url\(|@import", text)
    assert not [tag for tag, _ in Read(text).elements if tag in {"script", "link", "img", "iframe", "object"}]


@pytest.mark.parametrize("status", STEP_STATUSES)
def test_every_status_and_an_empty_history_have_a_page(status: StepStatus) -> None:
    assert page([step(1, "a", status=status)]).count(status) >= 2
    assert any("No step yet" in one for one in page([], status="created").texts)


@given(
    st.text(max_size=40) | st.sampled_from(["<b>", "\"'><script>alert(1)</script>", "&lt;", "a\0b", "\ud800", "\u202e"])
)
def test_no_text_of_an_author_becomes_markup(text: str) -> None:
    plain = [tag for tag, _ in page([step(1, "x", error="x", reducers={"x": "x"}, task="x")], error="x").elements]
    hard = page(
        [step(1, text, error={"error": text or "x"}, reducers={text: text}, task=text)],
        error=text or "x", workflow_name=text or "x", workflow=text,
    )  # fmt: skip
    assert [tag for tag, _ in hard.elements] == plain
    hard_text = history_page(flow(workflow_name=text), [], at(1))
    hard_text.encode()
    assert "\0" not in hard_text


# --- the scale of time ------------------------------------------------------------------------------------------

works = st.lists(
    st.tuples(st.floats(0, 1e6), st.floats(0, 100)).map(lambda one: (one[0], one[0] + one[1])), min_size=1, max_size=20
)


@given(works)
@example([(0.0, 5e-324)])
def test_the_scale_keeps_the_order_of_moments_and_shows_all_work(work: list[tuple[float, float]]) -> None:
    scale = scale_of(work)
    moments = sorted(moment for piece in work for moment in piece)
    places = [scale.at(moment) for moment in moments]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 1
    assert places[0] == 0
    assert scale.at(moments[0] - 1) == 0
    assert scale.at(moments[-1] + 1e9) == 1
    for before, after in scale.cuts:
        assert not any(begin < after and end > before for begin, end in work)
    ticks = [scale.at(moment) for _, _, moment in scale.ticks()]
    assert ticks == sorted(ticks)
    assert len(ticks) <= 20


def test_a_long_wait_takes_little_room_and_short_work_stays_visible() -> None:
    scale = scale_of([(0.0, 1.0), (86400.0, 86402.0)])
    assert scale.cuts == ((1.0, 86400.0),)
    assert scale.at(86400.0) - scale.at(1.0) < 0.08
    assert 0.3 < scale.at(1.0) < 0.34
    assert [(piece, seconds) for piece, seconds, _ in scale.ticks()] == [
        (0, 0), (0, 0.5), (0, 1.0), (1, 0.5), (1, 1.0), (1, 1.5), (1, 2.0),
    ]  # fmt: skip
    assert scale_of([(0.0, 1.0), (1.2, 2.0)]).cuts == ()
