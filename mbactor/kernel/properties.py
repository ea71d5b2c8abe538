"""What an actor class declares to be set from outside, made ready once: types, rules and defaults.

    properties = properties_of(Orders)
    given, faults = properties.read({"max_items": "20"})
    values = properties.complete(given)          # with the defaults

Pure but for the annotations it resolves. `features/config.py` is what stands in the class.
"""

from __future__ import annotations

import datetime as dt
import enum
import inspect
import typing
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from types import MappingProxyType, UnionType
from typing import Any, Final

import msgspec

from mbactor.errors import DeclarationError, did_you_mean
from mbactor.kernel.schema import check_type
from mbactor.secret import Secret
from mbactor.validation import Rule, parse

ABSENT: Final = inspect.Parameter.empty
"""In place of a default: there is none."""
_TEXTS = frozenset({"str", "set", "url", "email", "json"})
"""Rules about texts."""


class Declared:
    """A property as a class declares it, before its annotation is resolved."""

    name = "?"

    def __init__(
        self, default: Any, validation: str, *, secret: bool, description: str, local_names: Mapping[str, Any] | None
    ) -> None:
        self.default = default
        self.validation = validation
        self.secret = secret
        self.local_names = local_names
        self.__doc__ = description or None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def resolved(self, owner: type) -> Property:
        """The property, checked. DeclarationError names the class and the property."""
        where = f"{owner.__name__}.{self.name}"
        if self.name.startswith("_"):
            raise DeclarationError(f"{where}: the name of a property begins with a letter")
        type_ = self._annotation(owner, where)
        kinds = _members(type_) - {type(None)}
        rule = _rule(kinds, self.validation, where)
        if rule is None:
            check_type(type_, where)
        made = Property(self.name, type_, rule, type(None) in _members(type_), ABSENT, self.secret, self.__doc__ or "")
        if self.secret and kinds != {str}:
            raise DeclarationError(f"{where}: secret: only a text can be one; the annotation `str` expected")
        return replace(made, default=_default(made, self.default, where))

    def _annotation(self, owner: type, where: str) -> Any:
        annotations = inspect.get_annotations(owner)
        if self.name not in annotations:
            raise DeclarationError(f"{where}: no annotation; `{self.name}: int = config(...)` or the like expected")
        one = type("one", (), {"__annotations__": {self.name: annotations[self.name]}, "__module__": owner.__module__})
        try:
            return typing.get_type_hints(one, localns={**(self.local_names or {}), **vars(owner)})[self.name]
        except NameError as error:
            text = f"annotation {error.name!r} cannot be resolved; is it imported at run time?"
            raise DeclarationError(f"{where}: {text}") from error
        except (TypeError, SyntaxError) as error:
            raise DeclarationError(f"{where}: the annotation cannot be resolved: {error}") from error


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a class. `read` gives the value that stands for what was given."""

    name: str
    type: Any
    rule: Rule | None
    """None: the type alone says what is allowed."""
    optional: bool
    default: Any
    """`ABSENT`: it has to be given."""
    secret: bool = False
    description: str = ""

    @property
    def expected(self) -> str:
        """What is allowed, for people."""
        allowed = inspect.formatannotation(self.type) if self.rule is None else self.rule.expected
        return f"{allowed} or null" if self.optional and self.rule is not None else allowed

    def read(self, value: Any) -> Any:
        """The value, converted and checked. ValueError says what was given and what is expected, but no secret."""
        if value is None and self.optional:
            return None
        try:
            found = self._converted(value)
        except ValueError as error:
            raise ValueError(f"{self.shown(value)} given{error}") from None
        bared = isinstance(value, Secret) and not isinstance(found, Secret)
        if bared:
            raise ValueError(f"{value!r} given, {self.expected} expected; a secret can only be a text (`str`)")
        return Secret(found) if self.secret else found

    def shown(self, value: Any) -> str:
        """A value as a person may see it."""
        return repr(Secret()) if self.secret and value is not None else "nothing" if value is None else repr(value)

    def _converted(self, value: Any) -> Any:
        if self.rule is not None:
            try:
                return self.rule.read(value)
            except ValueError as error:
                raise ValueError(f", {'null or ' if self.optional else ''}{error}") from None
        try:
            return msgspec.convert(value, self.type)
        except msgspec.ValidationError as error:
            raise ValueError(f": {error}") from None


class Properties(Mapping[str, Property]):
    """All properties of a class by name, in the order of their declaration."""

    def __init__(self, cls: type, found: Mapping[str, Property]) -> None:
        self._name = cls.__qualname__
        self._found = found
        self._defaults = MappingProxyType({name: p.default for name, p in found.items() if p.default is not ABSENT})
        self._simple = all(one.rule is not None for one in found.values())

    def __getitem__(self, name: str) -> Property:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def read(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The values of what was given, and what is wrong with it, all at once, by name."""
        values: dict[str, Any] = {}
        faults = {name: self.unknown(name) for name in given if name not in self}
        for name, one in self.items():
            if name not in given:
                if one.default is ABSENT:
                    faults[name] = self.missing
                continue
            try:
                values[name] = one.read(given[name])
            except ValueError as error:
                faults[name] = str(error)
        return values, faults

    def complete(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """All values, the defaults with them, for one incarnation: what it may change is its own."""
        if not given and self._simple:
            return self._defaults
        either = {**self._defaults, **given}
        whole = {name: either[name] for name in self if name in either}
        return MappingProxyType(whole if self._simple else deepcopy(whole))

    def unknown(self, name: str) -> str:
        """What is to be said of a name that is not declared."""
        hint = did_you_mean(str(name), self) or f"; it declares: {', '.join(self) or 'nothing'}"
        return f"{self._name} declares no such property{hint}"

    @property
    def missing(self) -> str:
        """What is to be said where one that has no default is not given."""
        return f"missing: {self._name} needs this property"


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> frozenset[str]:
    """The names whose values are others."""
    return frozenset(name for name, value in after.items() if name not in before or not _same(before[name], value))


_known: dict[type, Properties] = {}


def properties_of(cls: type) -> Properties:
    """What a class and those above it declare, resolved at the first call. DeclarationError says what is wrong."""
    found = _known.get(cls)
    if found is None:
        found = _known[cls] = Properties(cls, dict(_declared(cls)))
    return found


def _declared(cls: type) -> Iterator[tuple[str, Property]]:
    declaring: dict[str, type] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Declared):
                declaring[name] = base
            elif name in declaring:
                raise DeclarationError(
                    f"{base.__name__}.{name} overrides the property {declaring[name].__name__}.{name};"
                    f" `{name}: ... = config(...)` expected"
                )
    for name, base in declaring.items():
        yield name, vars(base)[name].resolved(base)


# --- one declaration ----------------------------------------------------------------------------------------------


def _members(type_: Any) -> set[Any]:
    return set(typing.get_args(type_)) if typing.get_origin(type_) in {typing.Union, UnionType} else {type_}


def _rule(kinds: set[Any], validation: str, where: str) -> Rule | None:
    """The rule of a property: what the annotation says by itself, and what more the declaration does."""
    natural = _natural(kinds)
    if not validation:
        return natural
    try:
        rule = parse(validation)
    except ValueError as error:
        raise DeclarationError(f"{where}: validation {validation!r}: {error}") from None
    if natural is None:
        raise DeclarationError(f"{where}: validation {validation!r} given; its type alone says what is allowed")
    if natural.kind == rule.kind == "set":
        return _narrowed(natural, rule, where)
    if rule.kind != natural.kind and not (natural.kind == "str" and rule.kind in _TEXTS):
        raise DeclarationError(
            f"{where}: validation {validation!r} given, a rule for what the annotation is ({natural.expected}) expected"
        )
    return rule


def _natural(kinds: set[Any]) -> Rule | None:
    if dt.timedelta in kinds and kinds <= {int, float, str, dt.timedelta}:
        return Rule("dur")
    if len(kinds) != 1:
        return None
    (kind,) = kinds
    if typing.get_origin(kind) is typing.Literal:
        return Rule("set", choices=tuple((_word(value), value) for value in typing.get_args(kind)))
    if isinstance(kind, enum.EnumMeta):
        return Rule("set", choices=tuple(map(_of_member, kind.__members__.values())))
    simple: dict[Any, Rule] = {str: Rule("str"), int: Rule("int"), float: Rule("float"), bool: Rule("bool")}
    return simple.get(kind)


def _word(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _of_member(member: Any) -> tuple[str, Any]:
    return (str(member.value) if isinstance(member.value, str) else str(member.name)), member


def _narrowed(natural: Rule, rule: Rule, where: str) -> Rule:
    meant = dict(natural.choices)
    for word, _ in rule.choices:
        if word not in meant:
            raise DeclarationError(f"{where}: validation: {word!r} given, {natural.expected} expected")
    return replace(rule, choices=tuple((word, meant[word]) for word, _ in rule.choices))


def _default(made: Property, given: Any, where: str) -> Any:
    """The default as a value. The empty text, where the rule refuses that, says that there is none."""
    if given is ABSENT:
        if made.optional:
            return None
        if made.rule is None or made.rule.kind not in _TEXTS:
            return ABSENT
        given = ""
    try:
        return made.read(given)
    except ValueError as error:
        if isinstance(given, str) and not given:
            return ABSENT
        raise DeclarationError(f"{where}: default: {error}") from None


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or (type(one) is type(other) and bool(one == other))
    except Exception:  # noqa: BLE001 - somebody else's __eq__
        return False
