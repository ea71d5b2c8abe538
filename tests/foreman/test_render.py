"""Graphs and histories as Mermaid text."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from mbactor.foreman.model.diagram import escape, graph_mermaid
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import StepRecord, Subflow
from mbactor.foreman.model.status import StepStatus
from mbactor.foreman.render import duration_text, history_mermaid

AT = dt.datetime(2026, 5, 1, 12, 0, tzinfo=dt.UTC)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def shop() -> Graph:
    g = Graph("Shop")
    g.add_transition_fan_out("intake", "credit", "identity")
    g.add_transition("credit", "decide")
    g.add_transition("identity", "decide")
    g.set_fan_in("decide")
    g.add_transition_switch("decide", "pay", "total > 10")
    g.add_transition_switch("decide", END, "TRUE")
    g.add_transition_on_error("pay", "decide2")
    g.add_transition_on_timeout("pay", "decide2")
    g.add_transition_goto("pay", "pay")
    g.add_transition_when("pay", END, "done")
    g.add_transition("decide2", END)
    return g


def test_a_graph_is_drawn_with_its_circles_and_diamonds() -> None:
    drawn = lines(shop().mermaid())
    for expected in (
        'title: "Shop"',
        "graph LR",
        "_start(( )):::term",
        "_start --> t0",
        't0["intake"]:::task',
        "t0 --> t1",
        't3_reduce(("reduce")):::term',
        "t3_reduce --> t3",
        "t1 --> t3_reduce",
        't3_switch{"switch"}:::term',
        "t3 --> t3_switch",
        't3_switch -->|"total #gt; 10"| t4',
        't3_switch -->|"default"| _end',
        't4 -->|"onError | onTimeout"| t5',
        't4 -->|"goto"| t4',
        't4_when -->|"done"| _end',
        "_end(( )):::term",
    ):
        assert expected in drawn, expected


def test_for_each_and_subgraphs_have_their_own_look() -> None:
    g = Graph("G")
    g.add_transition_for_each("a", "b", for_each="items")
    g.add_subgraph("b", "https://x.example/w")
    drawn = lines(graph_mermaid(g, direction="TD", title=False, link="task"))
    assert drawn[0] == "graph TD"
    assert 't0 -->|"for each"| t1' in drawn
    assert 't1[["b"]]:::task' in drawn
    assert 'click t1 "?task=b"' in drawn
    assert not any("_end" in line for line in drawn)


@pytest.mark.parametrize("text", list("#\"'<>`[]{}()|\\&$:"))
def test_no_character_of_an_author_reaches_the_diagram_as_syntax(text: str) -> None:
    assert re.fullmatch(r"#(\d+|quot|lt|gt);", escape(text))
    assert escape("#" + text) == "#35;" + escape(text)


def test_names_and_conditions_are_escaped() -> None:
    g = Graph('T"\n---')
    g.add_transition_when('<b>"x"]', END, "a == 'x' || b")
    drawn = g.mermaid()
    assert "<b>" not in drawn
    assert 't0["#lt;b#gt;#quot;x#quot;#93;"]:::task' in drawn
    assert "a == #39;x#39; #124;#124; b" in drawn
    assert lines(drawn)[:3] == ["---", 'title: "T\\" ---"', "---"]
    assert Graph("<b>&\ud800").mermaid().splitlines()[1] == 'title: "\\u003cb\\u003e\\u0026\\ufffd"'


def test_the_looks_can_be_changed_and_nothing_else_by_them() -> None:
    g = Graph("G")
    g.add_transition("a", END)
    drawn = lines(g.mermaid(direction="TD", title=False, link="task", styles={"task": "fill:#fff"}))
    assert drawn[:2] == ["graph TD", "classDef task fill:#fff"]
    with pytest.raises(ValueError, match="'tasks'; expected some of task, term, link"):
        g.mermaid(styles={"tasks": "fill:#fff"})
    with pytest.raises(ValueError, match="expected something like"):
        g.mermaid(styles={"task": "fill:#fff\nclick t0 call()"})


def test_a_name_that_is_a_url_loses_its_host() -> None:
    g = Graph("G")
    g.add_transition("https://credit.example:428/verify", "https://host")
    assert '"verify"' in g.mermaid()
    assert '"host"' in g.mermaid()


def test_an_invalid_graph_is_drawn_all_the_same_and_none_is_nothing() -> None:
    text = '{"name":"G","transitions":[{"from":"a","to":"b"},{"from":"END","to":"b"}]}'
    assert "t0 --> t1" in Graph.from_json(text).mermaid()
    assert "graph LR" in Graph("empty").mermaid()
    assert graph_mermaid(None) == ""


def step(
    key: str,
    status: StepStatus = "completed",
    *,
    after: str | None = None,
    before: str | None = None,
    start: float = 0,
    took: float = 1,
    subflow: Subflow | None = None,
) -> StepRecord:
    return StepRecord(
        step_key=key,
        node=f"node-{key}",
        status=status,
        predecessor=after,
        successor=before,
        created_at=AT,
        started_at=AT + dt.timedelta(seconds=start),
        ended_at=AT + dt.timedelta(seconds=start + took) if status == "completed" else None,
        subflow=subflow,
    )


def test_a_history_is_drawn_from_start_to_end_with_durations_and_waits() -> None:
    drawn = lines(history_mermaid([step("a", before="b"), step("b", after="a", start=1.25, took=65)], title="F"))
    for expected in (
        "flowchart TD",
        's0["node-a\\n1s"]:::completed',
        's1["node-b\\n1m 5s"]:::completed',
        "_start --> s0",
        's0 -->|"250ms"| s1',
        "s1 --> _end",
    ):
        assert expected in drawn, expected
    assert len([line for line in drawn if line.startswith("s0 -->")]) == 1


def test_a_flow_in_flight_has_no_end() -> None:
    drawn = history_mermaid([step("a", before="b"), step("b", "running", after="a")])
    assert "_end" not in drawn
    assert 's1["node-b"]:::running' in drawn


def test_the_branches_of_a_fan_out_stand_together() -> None:
    steps = [step("s"), step("a", after="s"), step("b", after="s"), step("j", after="b")]
    drawn = lines(history_mermaid(steps, link="step"))
    start = drawn.index('subgraph fo_s0 [" "]')
    assert drawn[start + 1].startswith("s1[")
    assert drawn[start + 2].startswith("s2[")
    assert drawn[start + 3] == "end"
    assert 'click s3 "?step=j"' in drawn


def test_a_child_flow_is_drawn_inside_the_step_that_ran_it() -> None:
    inner = Subflow(flow_key="c", workflow_name="Child", steps=[step("x", before="y"), step("y", after="x", start=1)])
    drawn = lines(history_mermaid([step("a", before="b", took=3, subflow=inner), step("b", after="a", start=4)]))
    assert 's0["node-a\\n1s"]:::completed' in drawn
    assert 'subgraph s0_sg ["Child"]' in drawn
    assert 's0 -->|"0ms"| s1' in drawn
    assert 's2 -->|"2s"| s3' in drawn
    assert not any(line.startswith("s0 -->") and line.endswith("s3") for line in drawn)
    assert "_start --> s1" not in drawn


def test_an_empty_history_is_an_empty_chart() -> None:
    assert "_start" not in history_mermaid([])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.2509, "250ms"), (0.9999, "999ms"), (1, "1s"), (1.234, "1.23s"), (59.99, "59.9s"),
        (60, "1m 0s"), (3599, "59m 59s"), (3600, "1h 0m"), (90000, "1d 1h"),
    ],
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
