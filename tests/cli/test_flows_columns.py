"""Tables that fit: what goes first, what stays whole, and what the help of the group has."""

from __future__ import annotations

import datetime as dt

from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert
from rich.console import Console
from rich.text import Text

from mbactor.cli.flows.columns import GAP, Column, fitting, table_of, widths
from mbactor.cli.flows.commands import flows
from mbactor.cli.flows.group import SECTIONS
from mbactor.cli.flows.table import history_table
from mbactor.cli.main import main
from mbactor.foreman import StepRecord, Subflow
from mbactor.foreman.model.status import StepStatus

TEXTS = st.text("abcß漢", max_size=30)


@st.composite
def tables(draw: st.DrawFn) -> list[Column]:
    rows = draw(st.integers(1, 3))
    count = draw(st.integers(1, 7))
    return [
        Column(
            draw(st.sampled_from(["KEY", "A LONGER TITLE", ""])),
            [Text(draw(TEXTS)) for _ in range(rows)],
            draw(st.booleans()),
            stretch=draw(st.integers(0, 3)),
            least=draw(st.integers(1, 12)),
            rank=draw(st.integers(0, 3)),
        )
        for _ in range(count)
    ]


def total(found: list[int]) -> int:
    return sum(found) + GAP * (len(found) - 1)


@given(tables(), st.integers(20, 200))
def test_what_is_shown_fits_is_as_wide_as_it_needs_and_nothing_goes_without_need(
    columns: list[Column], room: int
) -> None:
    shown = fitting(columns, room)
    wide = widths(shown, room)
    least = [column.needed for column in shown]
    gone = [column for column in columns if not any(column is one for one in shown)]
    stays = max((column.rank for column in shown), default=0)
    assert all(column.rank >= max(1, stays) for column in gone)
    assert total(wide) <= max(room, total(least))
    assert all(a <= b for a, b in zip(least, wide, strict=True))
    if stays and shown:
        assert total(least) <= room
    for column, width in zip(shown, wide, strict=True):
        assert width <= max(column.natural, len(column.title))
        assert width == column.natural or column.stretch
    # Room that is left over is left because nobody needs it.
    if total(wide) < room:
        assert all(width == max(column.natural, column.needed) for column, width in zip(shown, wide, strict=True))


@given(tables(), st.integers(20, 200))
def test_a_table_is_drawn_as_wide_as_was_reckoned(columns: list[Column], room: int) -> None:
    there = [column for column in columns if not column.empty]
    needed = total([column.needed for column in fitting(there, room)])
    console = Console(width=max(room, needed, 1), color_system=None)
    with console.capture() as captured:
        console.print(table_of(columns, room))
    lines = captured.get().splitlines()
    assert all(Text(line.rstrip()).cell_len <= max(room, needed) for line in lines)
    whole = [column for column in fitting(there, room) if not column.stretch]
    for column in whole:
        for cell in column.cells:
            assert isinstance(cell, Text)
            assert any(cell.plain in line for line in lines)


def test_an_error_that_a_transition_took_is_not_told_as_one_that_is_open() -> None:
    statuses: tuple[StepStatus, ...] = ("completed", "failed")
    error = {"error": "there is no yacht", "statusCode": 400}
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        for status in statuses:
            console.print(history_table([StepRecord(step_key="1-1-a", node="reserve", status=status, error=error)]))
    told = captured.get().splitlines()
    assert told[1].rstrip().endswith("completed  handled: there is no yacht")
    assert told[3].rstrip().endswith("failed  there is no yacht")


def test_a_step_that_was_given_up_says_why() -> None:
    why = "its fan-in went on without this branch"
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(history_table([StepRecord(step_key="1-1-a", node="b", status="cancelled", cancel_reason=why)]))
    assert captured.get().rstrip().endswith(f"cancelled  {why}")


def test_a_step_whose_called_flow_is_too_deep_to_be_shown_says_where_it_is() -> None:
    called = Subflow(flow_key="1-9-b", workflow_name="count", cut=True)
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(history_table([StepRecord(step_key="1-1-a", node="b", status="running", subflow=called)]))
    assert captured.get().rstrip().endswith("called count; for more, `history 1-9-b`")


def test_a_step_that_was_answered_says_how_long_it_waited_for_that() -> None:
    begun = dt.datetime(2026, 11, 28, 1, 22, 29, tzinfo=dt.UTC)
    step = StepRecord(
        step_key="1-1-a", node="ask", status="completed", started_at=begun, answered_at=begun + dt.timedelta(seconds=36)
    )
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(history_table([step]))
    assert captured.get().rstrip().endswith("waited 36s for an answer")


def test_a_step_that_is_put_off_says_until_when() -> None:
    due = dt.datetime(2026, 11, 28, 1, 22, 29, tzinfo=dt.UTC)
    begun = {"step_key": "1-123456-0123456789abcdef", "node": "receive", "status": "pending", "due_at": due}
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        for created in (due - dt.timedelta(hours=1), due - dt.timedelta(days=3)):
            console.print(history_table([convert({**begun, "created_at": created}, StepRecord)]))
    told = captured.get().splitlines()
    assert told[1].rstrip().endswith("pending  due 01:22:29")
    assert told[3].rstrip().endswith("pending  due 2026-11-28 01:22")


def test_the_help_tells_each_command_in_a_whole_sentence() -> None:
    told = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert "..." not in told.partition("Commands:")[2]
    for command in main.commands.values():
        assert (command.short_help or "") in told


def test_no_help_shows_a_mark_that_is_meant_for_its_formatting() -> None:
    for path in [*([name] for name in main.commands), *(["flows", name] for name in flows.commands)]:
        told = CliRunner().invoke(main, [*path, "--help"], terminal_width=80)
        assert told.exit_code == 0
        assert "\\" not in told.output, path


def test_every_command_is_in_one_section_of_the_help_and_told_whole() -> None:
    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted(flows.commands)
    told = CliRunner().invoke(flows, ["--help"]).output
    for name, command in flows.commands.items():
        assert command.short_help
        assert f"{name} " in told
        assert command.short_help in told
