"""Reading the fields of a topology file: each by its type, each fault noted with position, path and suggestion.

A reader method returns the value, or None where there is none or it is wrong; what is wrong is in
`Problems`, so that one run finds all of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from mbactor.durations import seconds_of_text
from mbactor.errors import InvalidSpec
from mbactor.supervisor.interpolation import has_reference, interpolate
from mbactor.supervisor.spec import Backoff
from mbactor.supervisor.yaml_positions import Entry, Items, Node, Place, Problems, Scalar, Table

T = TypeVar("T")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?`, or nothing."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


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

    def __init__(self, table: Table, path: str, problems: Problems, environ: Mapping[str, str]) -> None:
        self.table = table
        self.path = path
        self.problems = problems
        self.environ = environ
        self._taken: set[str] = set()

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def wrong(self, node: Node | Place, name: str, text: str) -> None:
        place = node if isinstance(node, Place) else node.place
        self.problems.add(place, self.at(name) if name else self.path, text)

    def entry(self, name: str) -> Entry | None:
        """The field as it stands; asking for it says that it is known."""
        self._taken.add(name)
        return self.table.entries.get(name)

    def has(self, name: str) -> bool:
        return name in self.table.entries

    def unread(self) -> list[str]:
        return [name for name in self.table.entries if name not in self._taken]

    def refuse_unread(self) -> None:
        """Every key nobody asked for is a fault."""
        for name in self.unread():
            known = sorted(self._taken)
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            self.wrong(self.table.entries[name].key, name, f"unknown key{hint}")

    # --- fields by type ---------------------------------------------------------------------------------

    def scalar(self, name: str, expected: str) -> Scalar | None:
        """The scalar with its references filled in."""
        entry = self.entry(name)
        if entry is None:
            return None
        if not isinstance(entry.value, Scalar) or entry.value.absent:
            self.wrong(entry.value, name, f"{described(entry.value)} given, {expected} expected")
            return None
        return self.filled(entry.value, name)

    def filled(self, scalar: Scalar, name: str) -> Scalar | None:
        if not has_reference(scalar.text):
            return scalar
        try:
            return Scalar(interpolate(scalar.text, self.environ), scalar.place, quoted=True)
        except ValueError as error:
            self.wrong(scalar, name, str(error))
            return None

    def parsed(self, name: str, expected: str, parse: Callable[[str], T]) -> T | None:
        scalar = self.scalar(name, expected)
        if scalar is None:
            return None
        try:
            return parse(scalar.text)
        except ValueError:
            self.wrong(scalar, name, f"{scalar.text!r} given, {expected} expected")
            return None

    def text(self, name: str, expected: str = "a text") -> str | None:
        return self.parsed(name, expected, str)

    def whole(self, name: str, least: int) -> int | None:
        def parse(text: str) -> int:
            value = int(text)
            if value < least:
                raise ValueError
            return value

        return self.parsed(name, f"a whole number >= {least}", parse)

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
        scalar = self.scalar(name, f"one of {', '.join(allowed)}")
        if scalar is None or scalar.text in allowed:
            return scalar.text if scalar else None
        hint = did_you_mean(scalar.text, allowed)
        self.wrong(scalar, name, f"{scalar.text!r} given, one of {', '.join(allowed)} expected{hint}")
        return None

    def duration(self, name: str, **words: Any) -> float | None:
        """A duration with its unit, or one of `words` (which gives the value it stands for)."""
        expected = " or ".join(["a duration with its unit, such as 500ms or 5s", *words])

        def parse(text: str) -> float:
            return seconds_of_text(text)

        entry = self.table.entries.get(name)
        if entry is not None and isinstance(entry.value, Scalar):
            filled = self.filled(entry.value, name) if has_reference(entry.value.text) else entry.value
            if filled is not None and filled.text in words:
                self.entry(name)
                found: float | None = words[filled.text]
                return found
        return self.parsed(name, expected, parse)

    # --- fields with structure -----------------------------------------------------------------------------

    def section(self, name: str) -> Section | None:
        entry = self.entry(name)
        if entry is None:
            return None
        if not isinstance(entry.value, Table):
            self.wrong(entry.value, name, f"{described(entry.value)} given, a mapping expected")
            return None
        return Section(entry.value, self.at(name), self.problems, self.environ)

    def items(self, name: str) -> Items | None:
        entry = self.entry(name)
        if entry is None:
            return None
        if not isinstance(entry.value, Items):
            self.wrong(entry.value, name, f"{described(entry.value)} given, a list expected")
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
                section.wrong(section.table.place, required, "missing, a duration expected")
        if len(self.problems.found) > before or initial is None or maximum is None:
            return None
        try:
            return Backoff(initial, maximum, 2.0 if factor is None else factor, 0.2 if jitter is None else jitter)
        except InvalidSpec as error:
            section.wrong(section.table.place, "", str(error))
            return None

    def value(self, name: str) -> Any:
        """Anything: what the scalars in it naturally are."""
        entry = self.entry(name)
        return None if entry is None else self.plain(entry.value, name, natural=True)

    def plain(self, node: Node, name: str, *, natural: bool) -> Any:
        """The node as plain Python values; scalars as what they naturally are, or all as texts."""
        match node:
            case Scalar():
                filled = self.filled(node, name)
                if filled is None:
                    return None
                return filled.natural() if natural or filled.absent else filled.text
            case Items(items=items):
                return [self.plain(item, f"{name}[{n}]", natural=natural) for n, item in enumerate(items)]
            case Table(entries=entries):
                return {
                    key: self.plain(entry.value, f"{name}.{key}", natural=natural) for key, entry in entries.items()
                }
