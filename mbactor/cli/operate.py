"""`mbactor plan`, `apply`, `stop`, `start`, `restart` and `call`: a running tree compared, changed and asked.

Exit codes, beside those of `main.py`: 1 it failed or nothing runs, 2 a faulty file, 3 `plan --exit-code` has something
to do, 4 refused as things stand (no such name, an ambiguous one, it runs already), 5 not done within `--timeout`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from mbactor.cli.link import Link, connect
from mbactor.cli.steps import as_json, drawn, one_step
from mbactor.durations import text_of
from mbactor.errors import BudgetSpent, MbactorError
from mbactor.kernel.settings import environment
from mbactor.supervisor.operate.by_name import Operated, Verb
from mbactor.supervisor.operate.operator import Course, Planned
from mbactor.supervisor.operate.plan import Step
from mbactor.supervisor.operate.sockets import folders

FAILED, FAULTY, DIFFERS, REFUSED, LATE = 1, 2, 3, 4, 5
PATIENCE = 2.0
"""Seconds after which it is said what is being waited for; then each time after twice as long."""
_REFUSALS = frozenset({400, 404, 409})
_DOING = {"stop": "stopping", "start": "starting", "restart": "restarting"}
T = TypeVar("T")


class _Ends(Exception):
    """The command ends with this exit code; what there is to say has been said."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class Told(msgspec.Struct):
    """The answer to an `ask`."""

    body: str


# --- the commands -----------------------------------------------------------------------------------------------


def plan(file: Path, overlays: Sequence[Path], pid: int | None, *, form: str, differs: bool) -> int:
    """Print what `apply` would do; the exit code."""

    def ask(link: Link) -> int:
        line = _patiently(link.ask, {"plan": _wanted(file, overlays)}, "waiting for the plan")
        answer = _decoded(line, Planned, file)
        if form == "json":
            click.echo(json.dumps(as_json(answer.plan), indent=2, ensure_ascii=False))
        else:
            _print(drawn(answer.plan, answer.pid, file))
        return DIFFERS if differs and answer.plan.steps else 0

    return _reach(file, pid, ask)


def apply(file: Path, overlays: Sequence[Path], pid: int | None) -> int:
    """Carry out what `plan` prints, and tell of each step; the exit code."""

    def ask(link: Link) -> int:
        line = _patiently(link.ask, {"apply": _wanted(file, overlays)}, "waiting for the plan")
        answer = _decoded(line, Planned, file)
        _print(drawn(answer.plan, answer.pid, file))
        return _followed(link, file, answer.plan.steps)

    return _reach(file, pid, ask)


def operate(verb: Verb, name: str, file: Path | None, pid: int | None, timeout: float | None) -> int:
    """Stop, start or restart a child by name; the exit code."""

    def ask(link: Link) -> int:
        doing = f"{_DOING[verb]} {name}"
        line = _patiently(link.ask, {verb: name}, doing, timeout)
        if line is None:
            _error(f"{doing}: not done after {text_of(timeout or 0.0)}; it goes on")
            return LATE
        answer = _decoded(line, Operated, file)
        click.echo(f"{answer.path}: {answer.state}{_remark(verb, answer)}")
        return 0

    return _reach(file, pid, ask)


def call(address: str, arguments: str, method: str, file: Path | None, pid: int | None, timeout: float | None) -> int:
    """Print what an actor of the running tree answers; the exit code."""
    url = address if "://" in address else f"https://{address}"
    wanted = {"url": url, "body": arguments, "method": method, "seconds": timeout}

    def ask(link: Link) -> int:
        line = _patiently(link.ask, {"ask": wanted}, f"waiting for {address}")
        assert line is not None
        answer = msgspec.json.decode(line)
        if "error" in answer:
            _error(str(answer["error"]))
            status = answer.get("status", 500)
            return LATE if status == BudgetSpent.status else REFUSED if 400 <= status < 500 else FAILED
        click.echo(_legible(_decoded(line, Told, file).body))
        return 0

    return _reach(file, pid, ask)


def _legible(body: str) -> str:
    """JSON for people, who can still pass it on; other text as it is."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return body


def _remark(verb: Verb, answer: Operated) -> str:
    if verb == "stop" and answer.state == "stopped":
        return f"; it stays so until `mbactor start {answer.path}`, or until its supervisor starts again"
    if verb != "stop" and answer.state == "stopped":
        return "; it asked not to be started"
    return ""


# --- an apply, step by step ---------------------------------------------------------------------------------------


def _followed(link: Link, file: Path, steps: Sequence[Step]) -> int:
    begun, doing, since = time.monotonic(), "", 0.0
    while True:
        course = _decoded(_patiently(lambda _, within: link.more(within), None, doing), Course, file)
        if course.state in {"applied", "failed"}:
            break
        step = f"{course.step + 1}/{len(steps)} {one_step(steps[course.step])}"
        if course.state == "begun":
            doing, since = step, time.monotonic()
        else:
            click.echo(f"{click.style('done', fg='green')} {step}{_took(since)}")
    if course.why is None:
        if steps:
            click.echo(f"applied {_counted(len(steps), 'step')}{_took(begun)}")
        return 0
    _error(course.why)
    click.echo(f"{course.step} of {_counted(len(steps), 'step')} done; not done:", err=True)
    for step_left in steps[course.step :]:
        click.echo(f"  {one_step(step_left)}", err=True)
    click.echo(f"nothing was taken back; `mbactor apply {file}` goes on from here", err=True)
    return FAILED


def _counted(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def _took(since: float) -> str:
    took = time.monotonic() - since
    return f", {text_of(round(took, 1))}" if took >= 0.1 else ""


# --- questions and answers ----------------------------------------------------------------------------------------


def _reach(file: Path | None, pid: int | None, ask: Callable[[Link], int]) -> int:
    """Let the running process be asked; the exit code, also of what fails, which is told."""
    try:
        with connect(file, pid, folders(environment()), other=True) as link:
            return ask(link)
    except _Ends as ends:
        return ends.code
    except KeyboardInterrupt:
        click.echo("\nno longer waited for: what was begun is finished, nothing more is begun", err=True)
        return 130
    except MbactorError as error:
        _error(error.message)
        return FAILED


def _wanted(file: Path, overlays: Sequence[Path]) -> dict[str, Any]:
    wanted: dict[str, Any] = {"file": str(file.absolute())}
    return {**wanted, "overlays": [str(path.absolute()) for path in overlays]} if overlays else wanted


def _patiently(
    ask: Callable[[Any, float], bytes | None], request: Any, doing: str, timeout: float | None = None
) -> bytes | None:
    """The answer; what takes long is said now and then. None when `timeout` is over."""
    begun, pause = time.monotonic(), PATIENCE
    while True:
        left = pause if timeout is None else min(pause, begun + timeout - time.monotonic())
        line = ask(request, max(0.0, left))
        waited = time.monotonic() - begun
        if line is not None or (timeout is not None and waited >= timeout):
            return line
        click.echo(f"{click.style('...', dim=True)} {doing}: {text_of(round(waited))}", err=True)
        pause *= 2


def _decoded(line: bytes | None, expected: type[T], file: Path | None) -> T:
    assert line is not None
    answer = msgspec.json.decode(line)
    if isinstance(answer, dict) and "error" in answer:
        _refused(answer, file)
    try:
        return msgspec.convert(answer, expected)
    except msgspec.ValidationError as error:
        told = line[:200].decode(errors="replace")
        raise MbactorError(
            f"the running process answers in another way than this version expects: {error}: {told}"
        ) from None


def _refused(answer: dict[str, Any], file: Path | None) -> None:
    problems = answer.get("problems")
    if problems is None:
        _error(str(answer["error"]))
        raise _Ends(REFUSED if answer.get("status") in _REFUSALS else FAILED)
    for problem in problems:
        _error(_as_given(str(problem), file))
    click.echo(f"{file}: {_counted(len(problems), 'mistake')}; the running tree is as it was", err=True)
    raise _Ends(FAULTY)


def _as_given(problem: str, file: Path | None) -> str:
    """A problem by the file's name as it was typed: the process knows it by its absolute path."""
    if file is None or file.is_absolute():
        return problem
    return problem.replace(str(file.absolute()), str(file))


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)


def _error(text: str) -> None:
    # What comes from an actor may hold what would write to the terminal as it likes.
    safe = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    click.echo(f"{click.style('error:', fg='red', bold=True)} {safe}", err=True)
