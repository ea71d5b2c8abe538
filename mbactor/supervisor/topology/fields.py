"""Reading the fields of a topology file: each by its type, each fault noted with position, path and suggestion.

    section = Section(table, problems, Sources(environ))
    within = section.duration("within")

A reader method returns the value, or None where there is none or it is wrong; what is wrong is in
`Problems`, so that one run finds all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mbactor.durations import seconds_of_text
from mbactor.errors import InvalidSpec, did_you_mean
from mbactor.supervisor.spec import Backoff
from mbactor.supervisor.topology.interpolation import Sources, has_reference, interpolate
from mbactor.supervisor.topology.yaml_positions import Entry, Items, Node, Place, Problems, Scalar, Table

T = TypeVar("T")
_OF_FIELD = re.compile(
    r"""(?:child\ (?:'[^']*'|"[^"]*"):\ )?(?:\w+\.)?(?P<field>[a-z_]+):\ (?P<text>.*)""", re.DOTALL | re.VERBOSE
)


def described(node: Node) -> str:
    """What was given, for a message."""
    match node:
        case Scalar() if node.absent:
            return "nothing"
        case Scalar():
            return repr(node.text)
        case Items():
            return "a list"
        case Table():
            return "a mapping"


class Section:
    """A mapping of the file, read field by field."""

    def __init__(self, table: Table, problems: Problems, sources: Sources) -> None:
        self.table = table
        self.problems = problems
        self.sources = sources
        self._taken: set[str] = set()

    def within(self, table: Table) -> Section:
        """A mapping further down, with the same sources."""
        return Section(table, self.problems, self.sources)

    def wrong(self, node: Node | Place, text: str) -> None:
        self.problems.add(node if isinstance(node, Place) else node.place, text)

    def wrong_at(self, name: str, text: str) -> None:
        """At the value of the field where it is given, else where it should be."""
        entry = self.table.entries.get(name)
        self.wrong(self.table.place.at(name) if entry is None else entry.value, text)

    def refused(self, error: InvalidSpec) -> None:
        """What a specification says of itself, at the field that it names."""
        found = _OF_FIELD.fullmatch(str(error))
        if found is not None and found["field"] in self.table.entries:
            self.wrong_at(found["field"], found["text"])
        else:
            self.wrong(self.table, str(error))

    def entry(self, name: str) -> Entry | None:
        """The field as it stands; asking for it says that it is known."""
        self._taken.add(name)
        return self.table.entries.get(name)

    def has(self, name: str) -> bool:
        return name in self.table.entries

    def refuse_unread(self) -> None:
        """Every key nobody asked for is a fault."""
        known = sorted(self._taken)
        for name, entry in self.table.entries.items():
            if name not in self._taken:
                hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
                self.wrong(entry.key, f"unknown key{hint}")

    # --- fields by type ---------------------------------------------------------------------------------

    def scalar(self, name: str, expected: str) -> Scalar | None:
        """The scalar with its references filled in."""
        entry = self.entry(name)
        return None if entry is None else self.filled_scalar(entry.value, expected)

    def filled_scalar(self, node: Node, expected: str) -> Scalar | None:
        if isinstance(node, Scalar) and not node.absent:
            return self.filled(node)
        self.wrong(node, f"{described(node)} given, {expected} expected")
        return None

    def filled(self, scalar: Scalar) -> Scalar | None:
        if not has_reference(scalar.text):
            return scalar
        try:
            text = interpolate(scalar.text, self.sources, Path(scalar.place.file).parent)
        except ValueError as error:
            self.wrong(scalar, str(error))
            return None
        return Scalar(text, scalar.place, quoted=True)

    def parsed(
        self, name: str, expected: str, parse: Callable[[str], T], hint: Callable[[str], str] | None = None
    ) -> T | None:
        scalar = self.scalar(name, expected)
        if scalar is None:
            return None
        try:
            return parse(scalar.text)
        except ValueError:
            more = "" if hint is None else hint(scalar.text)
            self.wrong(scalar, f"{scalar.text!r} given, {expected} expected{more}")
            return None

    def text(self, name: str, expected: str = "a text") -> str | None:
        return self.parsed(name, expected, str)

    def whole(self, name: str, least: int, most: int | None = None) -> int | None:
        def parse(text: str) -> int:
            value = int(text)
            if value < least or (most is not None and value > most):
                raise ValueError
            return value

        return self.parsed(name, f"a whole number >= {least}{'' if most is None else f' and <= {most}'}", parse)

    def number(self, name: str) -> float | None:
        return self.parsed(name, "a number", float)

    def boolean(self, name: str) -> bool | None:
        words = {"true": True, "false": False}

        def parse(text: str) -> bool:
            if text.lower() not in words:
                raise ValueError
            return words[text.lower()]

        return self.parsed(name, "true or false", parse)

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        def parse(text: str) -> str:
            if text not in allowed:
                raise ValueError
            return text

        expected = f"one of {', '.join(allowed)}"
        return self.parsed(name, expected, parse, lambda given: did_you_mean(given, allowed))

    def duration(self, name: str, **words: Any) -> float | None:
        """A duration with its unit, or one of `words` (which gives the value it stands for)."""

        def parse(text: str) -> float | None:
            if text in words:
                found: float | None = words[text]
                return found
            return seconds_of_text(text)

        def hint(text: str) -> str:
            return f", did you mean '{text}s'?" if _is_number(text) else did_you_mean(text, words)

        return self.parsed(name, " or ".join(["a duration with its unit, such as 500ms or 5s,", *words]), parse, hint)

    # --- fields with structure -----------------------------------------------------------------------------

    def section(self, name: str) -> Section | None:
        entry = self.entry(name)
        if entry is None:
            return None
        if not isinstance(entry.value, Table):
            self.wrong(entry.value, f"{described(entry.value)} given, a mapping expected")
            return None
        return self.within(entry.value)

    def items(self, name: str) -> Items | None:
        entry = self.entry(name)
        if entry is None:
            return None
        if not isinstance(entry.value, Items):
            self.wrong(entry.value, f"{described(entry.value)} given, a list expected")
            return None
        return entry.value

    def backoff(self, name: str) -> Backoff | None:
        section = self.section(name)
        if section is None:
            return None
        before = len(self.problems.found)
        initial, maximum = section.duration("initial"), section.duration("maximum")
        factor, jitter = section.number("factor"), section.number("jitter")
        section.refuse_unread()
        for required in ("initial", "maximum"):
            if not section.has(required):
                section.wrong_at(required, "missing, a duration expected")
        if len(self.problems.found) > before or initial is None or maximum is None:
            return None
        given = {"factor": 2.0 if factor is None else factor, "jitter": 0.2 if jitter is None else jitter}
        # Each by itself first, so that all of them are told.
        for part in ({"maximum": maximum, "initial": initial}, *({name: value} for name, value in given.items())):
            try:
                Backoff(**{"initial": 1.0, "maximum": 1.0, **part})
            except InvalidSpec as error:
                section.refused(error)
        return Backoff(initial, maximum, **given) if len(self.problems.found) == before else None

    def plain(self, node: Node, *, natural: bool) -> Any:
        """The node as plain Python values; scalars as what they naturally are, or all as texts."""
        match node:
            case Scalar():
                filled = self.filled(node)
                if filled is None:
                    return None
                return filled.natural() if natural or filled.absent else filled.text
            case Items(items=items):
                return [self.plain(item, natural=natural) for item in items]
            case Table(entries=entries):
                return {key: self.plain(entry.value, natural=natural) for key, entry in entries.items()}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None
