"""The timeline of a page: a row for each step, from its creation over its start to its end."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mbactor.foreman.model.outcome import StepRecord
from mbactor.foreman.model.timescale import Scale, scale_of
from mbactor.foreman.page.text import moment, safe
from mbactor.foreman.render import answer_text, duration_text, with_subflows

LABEL = 0.05
"""The part of the width that the label of a tick takes: a cut so near would cover it."""
MANY = 12
"""So many branches at one node stand in a row of their own, which opens."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """What all rows share."""

    scale: Scale
    now: float
    ids: Mapping[str, str]

    def span(self, begin: float, end: float) -> str:
        """The place of a bar."""
        left, right = self.scale.at(begin), self.scale.at(end)
        return f"left:{left * 100:.3f}%;width:{max(0.0, right - left) * 100:.3f}%"


def timeline(steps: Sequence[StepRecord], ids: Mapping[str, str], now: dt.datetime) -> Iterator[str]:
    """The rows, below an axis. `ids` are the steps' places in the table."""
    work = [span for step in with_subflows(steps) for span in _work(step, now.timestamp())]
    if not work:
        return
    drawing = Drawing(scale_of(work), now.timestamp(), ids)
    yield '<div class="timeline">'
    yield f'<div class="row axis"><span></span><div class="track">{_axis(drawing.scale)}</div><span></span></div>'
    yield from _rows(drawing, steps, 0)
    yield "</div>"
    yield f'<div class="legend">{_legend(steps)}</div>'


def _work(step: StepRecord, now: float) -> Iterator[tuple[float, float]]:
    """When it ran. Of one that waits for an answer, or waited for a flow that it called, only where it began and ended,
    and of one that was answered what came after that: a scale that shows these in full would hide all else.
    """
    if step.started_at is not None:
        begin = step.started_at.timestamp()
        end = max(begin, _end(step, now))
        waits = step.status == "interrupted" or (step.subflow is not None and bool(step.subflow.steps))
        if step.waited_for_answer and not waits:
            yield from ((begin, begin), (min(end, begin + step.waited_for_answer), end))
        else:
            yield from ((begin, begin), (end, end)) if waits else ((begin, end),)
    elif step.created_at is not None:
        yield step.created_at.timestamp(), step.created_at.timestamp()


def _end(step: StepRecord, now: float) -> float:
    return step.ended_at.timestamp() if step.ended_at is not None else now


def _axis(scale: Scale) -> str:
    begins = [scale.at(before) for before, _ in scale.cuts]
    parts = []
    for piece, seconds, at in scale.ticks():
        left = scale.at(at)
        covered = any(left <= begin < left + LABEL for begin in begins)
        name = "" if covered else f"<span>{_since(seconds, piece)}</span>"
        parts.append(f'<div class="tick" style="left:{left * 100:.3f}%">{name}</div>')
    return "".join(parts) + _cuts(scale, named=True)


def _since(seconds: float, piece: int) -> str:
    """Behind a cut, which says how long it is, time is counted anew."""
    return f"+{duration_text(seconds)}" if piece else duration_text(seconds) if seconds else "0"


def _cuts(scale: Scale, *, named: bool) -> str:
    parts = []
    for before, after in scale.cuts:
        left, width = scale.at(before), scale.at(after) - scale.at(before)
        length = duration_text(after - before)
        name = f"<span>{length}</span>" if named else ""
        place = f"left:{left * 100:.3f}%;width:{width * 100:.3f}%"
        parts.append(f'<div class="cut" style="{place}" title="nothing ran for {length}">{name}</div>')
    return "".join(parts)


def _rows(drawing: Drawing, steps: Sequence[StepRecord], depth: int) -> Iterator[str]:
    counted = Counter((step.predecessor, step.node) for step in steps)
    shown: set[tuple[str | None, str]] = set()
    for step in sorted(steps, key=_created):
        group = (step.predecessor, step.node)
        if counted[group] <= MANY:
            yield from _step(drawing, step, depth)
        elif group not in shown:
            shown.add(group)
            alike = [one for one in steps if (one.predecessor, one.node) == group]
            yield from _many(drawing, alike, depth)


def _created(step: StepRecord) -> float:
    return step.created_at.timestamp() if step.created_at is not None else 0.0


def _step(drawing: Drawing, step: StepRecord, depth: int) -> Iterator[str]:
    more = f" <small>{step.runs} runs</small>" if step.runs > 1 else ""
    if step.lost:
        more += f' <small class="failed">{step.lost} lost</small>'
    if step.subflow is not None:
        more += f" <small>{safe(step.subflow.workflow_name or step.subflow.workflow)}</small>"
    took = duration_text(step.duration) if step.duration is not None else step.status
    name, link = safe(step.node), drawing.ids[step.step_key]
    label = f'<a class="label" href="#{link}" title="{name}">{name}{more}</a>'
    yield _row(drawing, depth, label, _bar(drawing, step), took)
    if step.subflow is not None:
        yield from _rows(drawing, step.subflow.steps, depth + 1)


def _many(drawing: Drawing, steps: Sequence[StepRecord], depth: int) -> Iterator[str]:
    statuses = Counter(step.status for step in steps)
    counts = ", ".join(f"{number} {status}" for status, number in statuses.most_common())
    failed = f' <small class="failed">{statuses["failed"]} failed</small>' if statuses["failed"] else ""
    label = f'<span class="label">{safe(steps[0].node)} <small>&times; {len(steps)}</small>{failed}</span>'
    bars = "".join(_bar(drawing, step, thin=True) for step in sorted(steps, key=lambda one: one.status == "failed"))
    ends = [_end(step, drawing.now) for step in steps if step.started_at is not None]
    begins = [step.started_at.timestamp() for step in steps if step.started_at is not None]
    took = duration_text(max(ends) - min(begins)) if begins else ""
    yield f'<details><summary title="{counts}">{_row(drawing, depth, label, bars, took)}</summary>'
    for step in steps:
        yield from _step(drawing, step, depth + 1)
    yield "</details>"


def _row(drawing: Drawing, depth: int, label: str, bars: str, took: str) -> str:
    track = f'<div class="track">{_cuts(drawing.scale, named=False)}{bars}</div>'
    return f'<div class="row" style="--in:{depth}">{label}{track}<span class="took">{took}</span></div>'


def _bar(drawing: Drawing, step: StepRecord, *, thin: bool = False) -> str:
    created = step.created_at.timestamp() if step.created_at is not None else None
    started = step.started_at.timestamp() if step.started_at is not None else None
    parts = []
    if created is not None and not thin:
        until = started if started is not None else _end(step, drawing.now)
        parts.append(f'<div class="wait" style="{drawing.span(created, max(created, until))}"></div>')
    if started is not None:
        # What calls a flow only waits for it: the steps below say who worked.
        look = " thin" if thin else " hollow" if step.subflow is not None and step.subflow.steps else ""
        told = f"{step.node}: {step.status}, {moment(step.started_at)}"
        told += f", {duration_text(step.duration)}" if step.duration is not None else ""
        end = max(started, _end(step, drawing.now))
        if step.waited_for_answer and not thin:
            answered = min(end, started + step.waited_for_answer)
            asked = safe(f"{step.node}: {answer_text(step)}")
            place = drawing.span(started, answered)
            parts.append(f'<div class="bar interrupted hollow" style="{place}" title="{asked}"></div>')
            started = answered
        place = drawing.span(started, end)
        parts.append(f'<div class="bar {step.status}{look}" style="{place}" title="{safe(told)}"></div>')
    return "".join(parts)


def _legend(steps: Sequence[StepRecord]) -> str:
    there = {step.status for step in with_subflows(steps)}
    ordered = ("completed", "running", "pending", "interrupted", "failed", "cancelled", "created")
    shown = "".join(f'<span><i class="{status}"></i>{status}</span>' for status in ordered if status in there)
    if "interrupted" not in there and any(step.waited_for_answer for step in with_subflows(steps)):
        shown += '<span><i class="interrupted"></i>waited for an answer</span>'
    return f'{shown}<span><i class="w"></i>waited to be started</span>'
