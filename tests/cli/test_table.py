"""The running tree as a table: what is shown, in which space, and what stands out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from mbactor.cli.table import Size, drawn, fitting, is_storm, rows_of, short, urgency
from mbactor.kernel.look import PastExit, RunningMessage
from mbactor.mailbox import MailboxStatistics
from mbactor.supervisor.children import Budget
from mbactor.supervisor.operate.control import Snapshot
from mbactor.supervisor.tree import TreeNode

QUIET = MailboxStatistics(depth=0, highest=0, accepted=0, rejected=0, expired=0, dropped=0, oldest_age=0.0)
BUSY = MailboxStatistics(depth=95, highest=99, accepted=400, rejected=7, expired=5, dropped=3, oldest_age=2.5)
BOOM = "failed: RuntimeError: the printer is on fire"
STORM = tuple(PastExit(ago, "failed", BOOM) for ago in (8.0, 4.0, 0.5))


def actor(id: str, **facts: Any) -> TreeNode:
    facts = {"uptime": 65.0, "incarnation": 1, "mailbox": QUIET, "capacity": 100, "state": "running", **facts}
    return TreeNode(id, "actor", **facts)


def tree(*children: TreeNode) -> TreeNode:
    return TreeNode("shop", "supervisor", "running", strategy="one_for_one", incarnation=1, children=children)


BUSY_ONE = actor(
    "orders",
    mailbox=BUSY,
    running=(RunningMessage("place", 3.25, "desk.example/serve"), RunningMessage("check", 0.1)),
)
STORMY = actor("printer", state="restarting", restarts=17, incarnation=18, uptime=None, exits=STORM, last_exit=BOOM)
MIXED = tree(actor("quiet"), BUSY_ONE, tree(STORMY, actor("held", state="stopped", held=True, uptime=None)))


def painted(node: TreeNode, width: int, height: int | None = None, *, colors: bool = False) -> list[str]:
    console = Console(width=width, color_system="standard" if colors else None, force_terminal=colors, highlight=False)
    with console.capture() as capture:
        console.print(drawn(Snapshot(node, "shop", 4711, 3725.0, 3), Size(width, height), footer="every 1s"))
    return [line.rstrip() for line in capture.get().splitlines()]


def titled(lines: list[str]) -> int:
    """Where the table begins: behind the headline, what cannot wait, and an empty line."""
    return next(n for n, line in enumerate(lines) if line.startswith("ACTOR"))


def line_of(id: str, lines: list[str]) -> str:
    return next(line for line in lines if f"─ {id}" in line)


def test_that_the_system_is_unready_is_told_before_all_else() -> None:
    snapshot = Snapshot(MIXED, "shop", 4711, 3725.0, 3, unready="the connection is lost\n\x1b[31m")
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(drawn(snapshot, Size(80)))
    told = [line.rstrip() for line in capture.get().splitlines()]
    assert told[1].startswith("! unready: the connection is lost ")
    assert [line for line in told[1:] if line != told[1]] == painted(MIXED, 80)[1:-2]


def test_the_rows_hang_where_they_stand_in_the_tree() -> None:
    lines = painted(MIXED, 100)
    names = [line[:13].rstrip() for line in lines[titled(lines) + 1 :][:6]]
    assert names == ["shop", "├─ quiet", "├─ orders", "└─ shop", "   ├─ printer", "   └─ held"]


def test_the_head_counts_the_actors_by_state() -> None:
    assert painted(MIXED, 120)[0] == "shop (pid 4711)  up 1h02m  2 of 4 running, 1 held, 1 restarting  3 dead letters"
    assert painted(MIXED, 80)[0] == "shop  up 1h02m  2 of 4 running, 1 held, 1 restarting  3 dead letters"


def test_eighty_columns_show_what_waits_what_is_lost_and_what_is_in_hand() -> None:
    lines = painted(MIXED, 80)
    assert lines[titled(lines)].split() == [
        "ACTOR",
        "STATE",
        "INC",
        "UP",
        "RESTARTS",
        "WAITING",
        "OLDEST",
        "LOST",
        "NOW",
    ]
    assert line_of("orders", lines).split() == [
        "├─",
        "orders",
        "running",
        "1",
        "1m05s",
        "95",
        "2.5s",
        "15",
        "3.2s",
        "place",
        "…",
    ]
    assert line_of("printer", lines).split() == ["├─", "printer", "restarting", "18", "17", "0"]


def test_a_wide_terminal_shows_every_counter_the_sender_and_the_last_end() -> None:
    lines = painted(MIXED, 200)
    titles = "ACTOR STATE INC UP RESTARTS WAITING OLDEST HIGHEST REJECTED EXPIRED DROPPED NOW LAST END"
    assert lines[titled(lines)].split() == titles.split()
    orders = "├─ orders running 1 1m05s 95/100 2.5s 99 7 5 3 3.2s place +1 ← desk.example/serve"
    assert line_of("orders", lines).split() == orders.split()
    assert "17 (3!)" in line_of("printer", lines)
    assert line_of("printer", lines).endswith(f"500ms ago {BOOM}")
    assert "LAST ENDS" not in lines


def test_a_narrow_terminal_tells_the_last_ends_below_the_table_the_newest_first() -> None:
    earlier = actor("stamp", restarts=1, exits=(PastExit(90, "normal", "normal"),))
    unknown = actor("clock", restarts=1, last_exit="failed: OSError: gone")
    lines = painted(tree(STORMY, unknown, earlier), 100)
    below = lines[lines.index("LAST ENDS") + 1 :]
    assert below[0].strip().split("  ") == ["500ms ago", "printer", "3 ends within 10s", BOOM]
    assert below[1].split() == ["1m30s", "ago", "stamp", "normal"]
    assert below[2].split("  ")[-2:] == ["clock", "failed: OSError: gone"]


def test_a_restart_storm_is_bold_and_red_and_a_single_restart_is_not() -> None:
    assert is_storm(STORMY)
    assert not is_storm(actor("once", restarts=9, exits=STORM[:1]))
    assert not is_storm(actor("then", restarts=9, exits=tuple(PastExit(60, "failed", BOOM) for _ in range(9))))
    lines = painted(tree(STORMY, actor("once", restarts=1, exits=STORM[:1])), 80, colors=True)
    red = "\x1b[1;31m"
    assert f"{red}printer" in next(line for line in lines if "├─" in line)
    assert f"{red}once" not in next(line for line in lines if "└─" in line)


def budgeted(spent: int, *children: TreeNode, most: int = 3, id: str = "shop") -> TreeNode:
    return replace(tree(*children), id=id, budget=Budget(most, 5.0, spent))


def test_a_supervisor_shows_how_many_restarts_are_left() -> None:
    lines = painted(budgeted(1, budgeted(0, id="inner")), 120)
    assert "LEFT" in lines[titled(lines)]
    assert [line.split()[-1] for line in lines[titled(lines) + 1 :][:2]] == ["2/3", "3/3"]


def test_what_cannot_wait_stands_above_the_table_in_words_and_in_red() -> None:
    storm = replace(STORMY, restarts_in=3.25)
    picture = budgeted(3, storm, budgeted(1, id="calm"), budgeted(7, most=9, id="near"))
    assert [line for line in painted(picture, 80) if line.startswith("!")] == [
        "! shop: 3 of 3 restarts spent within 5s: one more and it gives up",
        "! printer: ends again and again, 3 times within 10s, again in 3.2s",
        "! near: 7 of 9 restarts spent within 5s: 3 more and it gives up",
    ]
    assert "\x1b[1;31m! shop" in "".join(painted(picture, 80, colors=True))
    many = painted(tree(*[STORMY] * 9), 80)
    assert [line for line in many if line.startswith("!")][-1] == "! and 6 more"


def test_a_budget_that_was_never_touched_is_no_alarm() -> None:
    assert not any(line.startswith("!") for line in painted(budgeted(0, most=0), 80))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "in 0s"), (3.25, "in 3s"), (99, "in 99s"), (150, "in 2m"), (9000, "in 2h"), (1e6, "in 12d")],
)
def test_a_child_that_waits_out_a_backoff_shows_when_it_starts(seconds: float, told: str) -> None:
    waiting = actor("late", state="restarting", uptime=None, restarts_in=seconds)
    assert told in line_of("late", painted(tree(waiting), 60))


@pytest.mark.parametrize("width", [30, 50, 63, 67, 72, 80, 81, 100, 119, 120, 140, 149, 150, 200])
def test_no_line_is_longer_than_the_terminal_and_each_state_is_whole(width: int) -> None:
    deep = actor("with-a-very-long-name-" + "x" * 100, running=(RunningMessage("m" * 90, 1.0, "s" * 90),))
    for _ in range(6):
        deep = tree(deep, BUSY_ONE, STORMY)
    lines = painted(deep, width, 40)
    assert max(map(cell_len, lines)) <= width
    if width >= 50:
        assert all("restarting" in line for line in lines if "─ print" in line)


def test_where_not_all_rows_fit_the_urgent_ones_are_kept_below_their_supervisors() -> None:
    many = tree(*(actor(f"a{n}") for n in range(190)), tree(*(actor(f"b{n}") for n in range(10)), STORMY, BUSY_ONE))
    lines = painted(many, 80, 24)
    assert len(lines) <= 24
    assert line_of("printer", lines)
    assert line_of("orders", lines)
    assert line_of("a0 ", lines)
    assert lines[-1] == f"{204 - 15} of 204 rows cut, all quiet; --all shows them.  every 1s"
    assert "204" not in "".join(painted(many, 80))
    assert sum("─ " in line for line in painted(many, 80)) == 203


def test_rows_that_are_cut_and_not_quiet_are_not_called_quiet() -> None:
    lines = painted(tree(*(actor(f"a{n}", state="restarting") for n in range(100))), 80, 24)
    assert "rows cut; --all" in lines[-1]


@pytest.mark.parametrize("room", [1, 2, 3, 5, 50])
def test_what_is_kept_fits_and_hangs_together(room: int) -> None:
    kept = fitting(rows_of(MIXED), room)
    assert len(kept) == min(room, 6)
    assert all(path[:-1] in kept for path in kept if path)


def test_urgency_goes_from_quiet_to_wrong() -> None:
    lossy = MailboxStatistics(**{**{name: getattr(QUIET, name) for name in QUIET.__slots__}, "rejected": 1})
    nodes = [
        actor("quiet", running=(RunningMessage("m", 0.5),)),
        actor("lossy", mailbox=lossy),
        actor("slow", running=(RunningMessage("m", 1.5),)),
        actor("down", state="down"),
    ]
    assert [urgency(node) for node in nodes] == [0, 1, 2, 3]
    assert [urgency(BUSY_ONE), urgency(STORMY)] == [2, 3]


def test_texts_of_others_cannot_write_to_the_terminal_what_they_like() -> None:
    reason = "failed: ValueError: \x1b[2J\nnew\tline [bold]markup[/bold]"
    lines = painted(tree(actor("evil", exits=(PastExit(60, "failed", reason),))), 100)
    assert "failed: ValueError: \\x1b[2J new line [bold]markup[/bold]" in lines[-3]
    assert "\x1b" not in "".join(lines)


def test_durations_have_at_most_six_characters() -> None:
    given = {0.0: "0s", 0.035: "35ms", 0.9996: "1.0s", 3.21: "3.2s", 9.96: "10s", 59.9: "1m00s", 125: "2m05s"}
    given |= {3599: "59m59s", 12_000: "3h20m", 446_400: "5d04h", 86_400 * 364.0: "364d", 86_399.9: "1d00h"}
    assert {seconds: short(seconds) for seconds in given} == given


def test_the_processes_are_told_and_one_that_does_not_answer_stands_out() -> None:
    def house(silent: float | None) -> TreeNode:
        below = (actor("till"), actor("desk"))
        return tree(replace(tree(*below), id="back", process=True, pid=1009, silent=silent), actor("front"))

    calm = painted(house(0.2), 100)
    assert "PID" in calm[titled(calm)]
    assert "1009" in line_of("back", calm)
    assert "running" in line_of("back", calm)
    assert not [line for line in calm if line.startswith("!")]
    silent = painted(house(12.0), 100)
    assert "silent" in line_of("back", silent)
    assert "! back: its process 1009 has not answered for 12s; what is shown is as old" in silent
    assert urgency(house(12.0).children[0]) == 3
    assert "PID" not in painted(MIXED, 100)[titled(painted(MIXED, 100))]
