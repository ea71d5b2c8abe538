"""A running tree as a table for a terminal. Pure: a snapshot and a size in, something that rich can print out.

    console.print(drawn(snapshot, Size(width=80, height=24)))

What deserves a look is never cut: where not all rows fit, those that are down, restarting, overflowing or slow are
shown before the quiet ones, each below the supervisors that it stands under.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from mbactor.durations import text_of
from mbactor.kernel.look import PastExit, RunningMessage
from mbactor.mailbox import MailboxStatistics
from mbactor.supervisor.children import Budget
from mbactor.supervisor.operate.control import Snapshot
from mbactor.supervisor.tree import TreeNode, one_line

STORM_WITHIN = 10.0
STORM_ENDS = 3
"""So many ends within so many seconds are a restart storm."""
SLOW = 1.0
"""Seconds after which a message, waiting or in hand, is worth a look."""
STUCK = 10.0
MOST_ALERTS = 4
"""Lines of what cannot wait."""
MEDIUM, WIDE = 120, 150
"""Columns of a terminal from which all counters, and the last end of each actor, have a column of their own."""
_STATES = {
    "running": "green",
    "starting": "yellow",
    "restarting": "bold yellow",
    "stopping": "yellow",
    "stopped": "dim",
    "held": "magenta",
    "down": "bold red",
    "silent": "bold red",
}


@dataclass(frozen=True, slots=True)
class Size:
    """What there is to draw on; `height` None is as much as it takes."""

    width: int
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A node, with the lines that tell where it hangs."""

    node: TreeNode
    branch: str
    path: tuple[int, ...]
    """The way to it from the root, as positions among siblings."""


# --- which rows -----------------------------------------------------------------------------------------------


def rows_of(tree: TreeNode, kept: frozenset[tuple[int, ...]] | None = None) -> list[Row]:
    """The nodes from the top; only those that are `kept`, where that is said."""
    rows: list[Row] = []

    def add(node: TreeNode, path: tuple[int, ...], branch: str, indent: str) -> None:
        rows.append(Row(node, branch, path))
        below = [(n, child) for n, child in enumerate(node.children) if kept is None or (*path, n) in kept]
        for n, child in below:
            last = n == below[-1][0]
            add(child, (*path, n), indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  "))

    add(tree, (), "", "")
    return rows


def fitting(rows: Sequence[Row], room: int) -> frozenset[tuple[int, ...]]:
    """The paths of at most `room` rows: those that matter most, and all above them; in doubt the first."""
    kept: set[tuple[int, ...]] = {()}
    for row in sorted(rows, key=lambda row: -urgency(row.node)):
        wanted = {row.path[:n] for n in range(len(row.path) + 1)} - kept
        if len(kept) + len(wanted) <= room:
            kept |= wanted
    return frozenset(kept)


def urgency(node: TreeNode) -> int:
    """3: something is wrong now. 2: work piles up. 1: something was wrong. 0: quiet."""
    trouble = is_storm(node) or is_nearly_spent(node.budget) or is_silent(node)
    if node.state not in {"running", "stopped"} or trouble:
        return 3
    waits = 0.0 if node.mailbox is None else node.mailbox.oldest_age
    if waits >= SLOW or any(message.age >= SLOW for message in node.running):
        return 2
    lossy = node.mailbox is not None and lost(node.mailbox) > 0
    return 1 if lossy or node.restarts or node.state == "stopped" else 0


def is_storm(node: TreeNode) -> bool:
    """Whether it ends again and again, right now."""
    return recent(node) >= STORM_ENDS


def is_silent(node: TreeNode) -> bool:
    """Whether its process does not answer: its loop is blocked, or it was stopped by a signal."""
    return node.silent is not None and node.silent >= SLOW


def is_nearly_spent(budget: Budget | None) -> bool:
    """Whether most of the restarts within the window are used up. One that is always as near says nothing by it."""
    return budget is not None and budget.spent > 0 and budget.left <= budget.max_restarts // 3


def recent(node: TreeNode) -> int:
    return sum(end.ago <= STORM_WITHIN for end in node.exits)


def lost(mailbox: MailboxStatistics) -> int:
    """Messages that were refused or thrown away."""
    return mailbox.rejected + mailbox.expired + mailbox.dropped


# --- the picture ------------------------------------------------------------------------------------------------


def drawn(snapshot: Snapshot, size: Size, *, note: Text | None = None, footer: str = "") -> RenderableType:
    """A headline, the table, the last ends where the table has no room for them, and what was left out."""
    rows = rows_of(snapshot.tree)
    alerts = _alerts(rows, snapshot.unready)
    ends = [] if size.width >= WIDE else _ends(rows, size)
    if size.height is not None:
        # The headline, the titles of the columns, the footer and the two empty lines between.
        room = max(3, size.height - 5 - len(alerts) - (len(ends) + 2 if ends else 0))
        if len(rows) > room:
            kept = fitting(rows, room)
            cut = len(rows) - len(kept)
            shown = rows_of(snapshot.tree, kept)
            left = [row for row in rows if row.path not in kept]
            footer = "  ".join(part for part in (_cut(cut, len(rows), left), footer) if part)
            rows = shown
    parts: list[RenderableType] = [note or _headline(snapshot, size.width), *alerts, Text(), _table(rows, size.width)]
    if ends:
        parts += [Text("\nLAST ENDS", style="dim"), *ends]
    if footer:
        parts += [Text(), _line(Text(footer, style="dim"))]
    return Group(*parts)


def _cut(cut: int, total: int, left: Sequence[Row]) -> str:
    quiet = all(urgency(row.node) == 0 for row in left)
    return f"{cut} of {total} rows cut{', all quiet' if quiet else ''}; --all shows them."


def _headline(snapshot: Snapshot, width: int) -> Text:
    line = Text()
    line.append(one_line(snapshot.system), style="bold")
    pid = f" (pid {snapshot.pid})" if width >= 100 else ""
    line.append(f"{pid}  up {short(snapshot.uptime)}  ", style="dim")
    states = Counter(state_of(row.node) for row in rows_of(snapshot.tree) if row.node.kind == "actor")
    actors = states.total()
    line.append(f"{states.pop('running', 0)} of {actors} running", style="green")
    for state, count in sorted(states.items()):
        line.append(f", {count} ")
        line.append(state, style=_STATES.get(state, ""))
    if snapshot.dead_letters:
        plural = "" if snapshot.dead_letters == 1 else "s"
        line.append(f"  {snapshot.dead_letters} dead letter{plural}", style="yellow")
    return _line(line)


def _alerts(rows: Sequence[Row], unready: str | None) -> list[Text]:
    """What cannot wait, in words: why all of it is unready, supervisors that are about to give up, and children that do
    not come to rest.
    """
    told = [f"unready: {one_line(unready)}"] if unready else []
    told += [text for row in rows for text in (_alert(row.node),) if text]
    shown = told if len(told) <= MOST_ALERTS else [*told[: MOST_ALERTS - 1], f"and {len(told) - MOST_ALERTS + 1} more"]
    return [_line(Text(f"! {text}", style="bold red")) for text in shown]


def _alert(node: TreeNode) -> str:
    texts = []
    if node.budget is not None and is_nearly_spent(node.budget):
        budget = node.budget
        after = "one more and it gives up" if not budget.left else f"{budget.left + 1} more and it gives up"
        texts.append(f"{budget.spent} of {budget.max_restarts} restarts spent within {text_of(budget.within)}: {after}")
    if node.silent is not None and is_silent(node):
        texts.append(f"its process {node.pid} has not answered for {short(node.silent)}; what is shown is as old")
    if is_storm(node):
        again = f", again in {short(node.restarts_in)}" if node.restarts_in else ""
        texts.append(f"ends again and again, {recent(node)} times within {STORM_WITHIN:g}s{again}")
    return f"{one_line(node.id)}: {'; '.join(texts)}" if texts else ""


def _table(rows: Sequence[Row], width: int) -> Table:
    shown = [
        (field, cells)
        for field in _FIELDS
        if field.least <= width < field.most and (any(cells := [field.cell(row) for row in rows]) or not field.optional)
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for (field, _), columns in zip(shown, _widths(shown, width), strict=True):
        justify: JustifyMethod = "right" if field.numeric else "left"
        table.add_column(field.title, justify=justify, no_wrap=True, overflow="ellipsis", width=columns)
    for row, *cells in zip(rows, *(cells for _, cells in shown), strict=True):
        table.add_row(*cells, style="bold red" if is_storm(row.node) else None)
    return table


def _widths(shown: Sequence[tuple[Field, Sequence[Text]]], width: int) -> list[int]:
    """What is left goes to the fields that grow and need it: half of it to each, all to the last."""
    spare = width - sum(field.width + 1 for field, _ in shown) + 1
    growing = [field for field, _ in shown if field.grows]
    widths = []
    for field, cells in shown:
        more = 0
        if field.grows and spare > 0:
            wanted = max((cell.cell_len for cell in cells), default=0) - field.width
            more = max(0, min(wanted, spare if field is growing[-1] else spare // 2))
        spare -= more
        widths.append(field.width + more)
    return widths


def _ends(rows: Sequence[Row], size: Size) -> list[Text]:
    """The last end of each actor that ended, the newest first."""
    ended = [(end, row.node) for row in rows if (end := last_end(row.node)) is not None]
    ended.sort(key=lambda pair: pair[0].ago)
    most = 5 if size.height is None or size.height >= 30 else 3
    lines = []
    for end, node in ended[:most]:
        line = Text(f"{_ago(end):>10}  ")
        line.append(f"{one_line(node.id)}  ", style="bold")
        if is_storm(node):
            line.append(f"{recent(node)} ends within {STORM_WITHIN:g}s  ")
        line.append(one_line(end.reason))
        line.stylize("bold red" if is_storm(node) else "red" if end.kind in _BAD else "")
        lines.append(_line(line))
    return lines


_BAD = frozenset({"failed", "killed", "gave_up"})


def last_end(node: TreeNode) -> PastExit | None:
    """How it ended last; `ago` is infinite where nobody noted when."""
    if node.exits:
        return node.exits[-1]
    if node.last_exit is None:
        return None
    kind = node.last_exit.partition(":")[0]
    return PastExit(float("inf"), kind if kind in _BAD else "normal", node.last_exit)  # type: ignore[arg-type]


# --- the cells --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """A column: shown on terminals of at least `least` and less than `most` columns."""

    title: str
    cell: Callable[[Row], Text]
    width: int
    numeric: bool = False
    grows: bool = False
    """It takes what the others leave."""
    optional: bool = False
    """It is there only when one of its cells says something."""
    least: int = 0
    most: int = 1_000_000


def _name(row: Row) -> Text:
    text = Text()
    text.append(row.branch, style="dim")
    return text.append(one_line(row.node.id), style="bold" if row.node.kind == "supervisor" else "")


def state_of(node: TreeNode) -> str:
    """Its state in one word."""
    if is_silent(node):
        return "silent"
    return "held" if node.held and node.state == "stopped" else node.state


def _state(row: Row) -> Text:
    state = state_of(row.node)
    return Text(state, style=_STATES.get(state, ""))


def _pid(row: Row) -> Text:
    return Text("" if row.node.pid is None else str(row.node.pid), style="dim")


def _incarnation(row: Row) -> Text:
    return Text(str(row.node.incarnation), style="dim" if row.node.incarnation <= 1 else "")


def _uptime(row: Row) -> Text:
    if row.node.restarts_in is not None:
        return Text(_soon(row.node.restarts_in), style="yellow")
    return Text("" if row.node.uptime is None else short(row.node.uptime))


def _left(row: Row) -> Text:
    """Restarts that are left within the window, of how many."""
    budget = row.node.budget
    if budget is None:
        return Text()
    style = "bold red" if is_nearly_spent(budget) else "yellow" if budget.spent else "dim"
    return Text(f"{budget.left}/{budget.max_restarts}", style=style)


def _restarts(row: Row) -> Text:
    if is_storm(row.node):
        return Text(_counted(row.node.restarts), style="bold red")
    return Text(_counted(row.node.restarts) if row.node.restarts else "", style="yellow" if recent(row.node) else "")


def _restarts_and_storm(row: Row) -> Text:
    text = _restarts(row)
    return text.append(f" ({recent(row.node)}!)") if is_storm(row.node) else text


def _counted(number: int) -> str:
    return str(number) if number < 1000 else f"{number / 1000:.0f}k"


def _mailbox(show: Callable[[TreeNode, MailboxStatistics], Text]) -> Callable[[Row], Text]:
    return lambda row: Text() if row.node.mailbox is None else show(row.node, row.node.mailbox)


def _waiting(node: TreeNode, mailbox: MailboxStatistics) -> Text:
    filled = mailbox.depth / node.capacity if node.capacity else 0.0
    style = "bold red" if filled >= 0.9 else "yellow" if filled >= 0.5 else "" if mailbox.depth else "dim"
    return Text(str(mailbox.depth), style=style)


def _waiting_of_capacity(node: TreeNode, mailbox: MailboxStatistics) -> Text:
    text = _waiting(node, mailbox)
    return text.append(f"/{node.capacity}") if mailbox.depth else text


def _oldest(_: TreeNode, mailbox: MailboxStatistics) -> Text:
    return Text(short(mailbox.oldest_age), style=_age_style(mailbox.oldest_age)) if mailbox.depth else Text()


def _count(read: Callable[[MailboxStatistics], int], style: str = "") -> Callable[[TreeNode, MailboxStatistics], Text]:
    return lambda _, mailbox: Text(str(read(mailbox)) if read(mailbox) else "", style=style)


def _now(row: Row) -> Text:
    return _in_hand(row.node.running, sender=False)


def _now_with_sender(row: Row) -> Text:
    return _in_hand(row.node.running, sender=True)


def _in_hand(running: Sequence[RunningMessage], *, sender: bool) -> Text:
    """The age first: the name may be cut."""
    if not running:
        return Text()
    oldest = running[0]
    text = Text()
    text.append(short(oldest.age), style=_age_style(oldest.age))
    text.append(f" {oldest.method}")
    if len(running) > 1:
        text.append(f" +{len(running) - 1}", style="cyan")
    if sender and oldest.sender is not None:
        text.append(f" ← {one_line(oldest.sender)}", style="dim")
    return text


def _last_end(row: Row) -> Text:
    end = last_end(row.node)
    if end is None:
        return Text()
    text = Text()
    text.append(f"{_ago(end)} ".lstrip(), style="dim")
    text.append(one_line(end.reason), style="red" if end.kind in _BAD else "")
    return text


_FIELDS = (
    Field("ACTOR", _name, 14, grows=True),
    Field("STATE", _state, 10),
    Field("PID", _pid, 7, numeric=True, optional=True, least=90),
    Field("INC", _incarnation, 4, numeric=True, least=68),
    Field("UP", _uptime, 6, numeric=True, least=50),
    Field("RESTARTS", _restarts, 8, numeric=True, most=MEDIUM),
    Field("RESTARTS", _restarts_and_storm, 10, numeric=True, least=MEDIUM),
    Field("LEFT", _left, 5, numeric=True, optional=True, least=100),
    Field("WAITING", _mailbox(_waiting), 7, numeric=True, most=MEDIUM),
    Field("WAITING", _mailbox(_waiting_of_capacity), 9, numeric=True, least=MEDIUM),
    Field("OLDEST", _mailbox(_oldest), 6, numeric=True, least=75),
    Field("HIGHEST", _mailbox(_count(lambda m: m.highest)), 7, numeric=True, least=MEDIUM),
    Field("REJECTED", _mailbox(_count(lambda m: m.rejected, "yellow")), 8, numeric=True, optional=True, least=MEDIUM),
    Field("EXPIRED", _mailbox(_count(lambda m: m.expired, "yellow")), 7, numeric=True, optional=True, least=MEDIUM),
    Field("DROPPED", _mailbox(_count(lambda m: m.dropped, "yellow")), 7, numeric=True, optional=True, least=MEDIUM),
    Field("LOST", _mailbox(_count(lost, "yellow")), 5, numeric=True, optional=True, least=80, most=MEDIUM),
    Field("NOW", _now, 9, grows=True, least=63, most=MEDIUM),
    Field("NOW", _now_with_sender, 9, grows=True, least=MEDIUM),
    Field("LAST END", _last_end, 20, grows=True, least=WIDE),
)


def short(seconds: float) -> str:
    """A duration in at most six characters: 35ms, 3.2s, 2m05s, 3h20m, 5d04h."""
    if seconds < 0.0005:
        return "0s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole >= 100 * 86400:
        return f"{whole // 86400}d"
    for unit, size, part, piece in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // piece:02d}{part}"
    return f"{whole}s"


def _soon(seconds: float) -> str:
    """When something will be, in at most six characters: in 3s, in 15m, in 2h."""
    for unit, size in (("s", 1), ("m", 60), ("h", 3600)):
        if seconds < 99.5 * size:
            return f"in {round(seconds / size)}{unit}"
    return f"in {round(seconds / 86400)}d"


def _ago(end: PastExit) -> str:
    return "" if end.ago == float("inf") else f"{short(end.ago)} ago"


def _age_style(age: float) -> str:
    return "bold red" if age >= STUCK else "yellow" if age >= SLOW else "dim"


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
