"""A method's signature as a binder: what callers pass becomes what the method gets.

A value is handed over as it is only where it is exactly of its annotated type and that type is an
immutable scalar; everything else is encoded and decoded as if it travelled, so an actor sees the same
value, and its caller the same 400, wherever the two run. Absent arguments are not passed: Python's own
defaults apply. Unknown fields of a body are ignored, so replicas of two versions can run side by side.
"""

from __future__ import annotations

import datetime as dt
import decimal
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import msgspec

from mbactor.errors import BadRequest, DeclarationError, MbactorError
from mbactor.transport.codec import decode, encode, is_extended, travel, unpacker
from mbactor.transport.message import JSON, MSGPACK

_SCALARS: frozenset[Any] = frozenset(
    {int, float, bool, str, bytes, type(None), dt.date, dt.timedelta, uuid.UUID, decimal.Decimal}
)
"""Not `datetime` and `time`: of those that travel, the moment arrives, in UTC, and neither the zone nor `fold`."""
_NOTHING = inspect.Parameter.empty
_BUDGETS = frozenset({"deadline", "time_budget", "timeout"})
"""What other libraries let a call be given, and people look for here."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: its annotation, and the types whose values need not travel."""

    name: str
    type: Any
    required: bool
    exact: frozenset[type]
    by_position: bool = True


class Signature:
    """Binds the arguments of one method. Made once, at the first spawn or check of its class."""

    __slots__ = (
        "_body", "_required", "_unpack", "exact", "given", "name", "names", "parameters", "positional", "returns",
        "returns_exact", "scalar",
    )  # fmt: skip

    def __init__(self, name: str, parameters: list[Parameter], returns: Any, given: tuple[str, ...] = ()) -> None:
        self.name = name
        self.given = given
        self.parameters = {p.name: p for p in parameters}
        self.names = tuple(self.parameters)
        self.positional = tuple(p.name for p in parameters if p.by_position)
        self.returns = returns
        self.returns_exact = _exact(returns)
        self.exact = {p.name: p.exact for p in parameters}
        self._required = frozenset(p.name for p in parameters if p.required)
        # A mapping, so that what comes is at once what the method is called with.
        mapping: Any = typing.TypedDict  # to type checkers it has to be written out
        self._body = mapping("Arguments", {p.name: p.type for p in parameters}, total=False)
        self._unpack: Callable[[bytes], dict[str, Any]] | None = None
        self.scalar = all(p.exact and p.exact <= _SCALARS for p in parameters)
        """Whether nothing but scalars is taken: to read them needs no time to speak of, and no code of others."""

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments the method gets. BadRequest names the argument that does not fit."""
        if args:
            if kwargs or len(args) > len(self.positional):
                kwargs = self._named(args, kwargs)
            elif len(args) == 1:
                # A third of what the way for all would cost.
                name, value = self.names[0], args[0]
                kwargs = {name: value}
                if len(self.exact) == 1 and type(value) in self.exact[name]:
                    return kwargs
            else:
                kwargs = dict(zip(self.positional, args, strict=False))
        exact = self.exact
        try:
            for name, value in kwargs.items():
                if type(value) not in exact[name]:
                    kwargs[name] = self._travelled(self.parameters[name], value)
        except KeyError:
            unknown = next(name for name in kwargs if name not in exact)
            budget = "; a budget is set around it: `with anyio.fail_after(3):`" if unknown in _BUDGETS else ""
            raise _unfit(f"{self.name} has no parameter {unknown!r}; it takes {self._listed()}{budget}") from None
        if len(kwargs) < len(exact):
            self._check_required(kwargs)
        return kwargs

    @property
    def unpack(self) -> Callable[[bytes], dict[str, Any]]:
        """`decode` from msgpack, or whatever error that meets; arguments may be missing."""
        unpack = self._unpack = self._unpack or unpacker(self._body)
        return unpack

    def decode(self, body: bytes, content_type: str, query: str = "") -> dict[str, Any]:
        """The keyword arguments in a body (an object) and a query string; the body wins."""
        if content_type == MSGPACK and not query:
            unpack = self._unpack or self.unpack
            try:
                arguments = unpack(body)
                if len(arguments) == len(self.exact):
                    return arguments
            except Exception:  # noqa: BLE001, S110 - what is wrong, the long way says
                pass
        arguments = self._from_query(query) if query else {}
        if body:
            try:
                given = decode(body, content_type, self._body)
            except BadRequest as error:
                raise _unfit(f"{self.name}: {error}") from None
            arguments = {**arguments, **given} if arguments else given
        if len(arguments) < len(self.exact):
            self._check_required(arguments)
        return arguments

    def encode(self, kwargs: Mapping[str, Any], content_type: str = MSGPACK) -> tuple[bytes, str]:
        try:
            return encode(kwargs, content_type)
        except (TypeError, ValueError, RecursionError) as error:
            raise _unfit(f"an argument of {self.name} cannot travel: {error}") from error

    def returned(self, value: Any) -> Any:
        """The method's result as its caller gets it."""
        if type(value) in self.returns_exact:
            return value
        try:
            return travel(value, self.returns)
        except (BadRequest, TypeError, ValueError, RecursionError) as error:
            raise self._bad_result(value, error) from error

    def encode_result(self, value: Any, content_type: str = JSON) -> tuple[bytes, str]:
        try:
            return encode(value, content_type)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._bad_result(value, error) from error

    def decode_result(self, body: bytes, content_type: str) -> Any:
        """The method's result that came as bytes from where its annotation was not looked at."""
        try:
            return decode(body, content_type, self.returns)
        except BadRequest as error:
            raise MbactorError(
                f"{self.name} returned what does not fit its annotation {_shown(self.returns)}: {error}"
            ) from error

    def _bad_result(self, value: Any, error: Exception) -> MbactorError:
        why = "it is to be awaited first, `return await ...`" if inspect.isawaitable(value) else str(error)
        return MbactorError(
            f"{self.name} returned {type(value).__name__}, which does not fit its annotation"
            f" {_shown(self.returns)}: {why}"
        )

    def _travelled(self, parameter: Parameter, value: Any) -> Any:
        try:
            return travel(value, parameter.type)
        except BadRequest as error:
            inner = str(error)
            path = f"`$.{parameter.name}"
            told = inner.replace("`$", path, 1) if "`$" in inner else f"{inner} - at {path}`"
            raise _unfit(f"{self.name}: {told}") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise _unfit(f"argument {parameter.name!r} of {self.name} cannot travel: {error}") from error

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        takes = len(self.positional)
        if len(args) > takes:
            taken = "1 argument" if takes == 1 else f"{takes} arguments"
            if takes < len(self.names):
                taken += f" by position ({', '.join(self.names[takes:])} by name)"
            raise _unfit(f"{self.name} takes {taken}, {len(args)} {'was' if len(args) == 1 else 'were'} given")
        named = dict(zip(self.positional, args, strict=False))
        twice = named.keys() & kwargs.keys()
        if twice:
            raise _unfit(f"{self.name} got argument {min(twice)!r} twice")
        return {**named, **kwargs}

    def _check_required(self, arguments: Mapping[str, Any]) -> None:
        missing = self._required - arguments.keys()
        if missing:
            names = ", ".join(f"`{name}`" for name in self.names if name in missing)
            raise _unfit(f"{self.name} needs {names} - at `$.{next(n for n in self.names if n in missing)}`")

    def _from_query(self, query: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for name, values in parse_qs(query, keep_blank_values=True).items():
            parameter = self.parameters.get(name)
            if parameter is not None:
                try:
                    arguments[name] = _from_text(values, parameter.type)
                except msgspec.ValidationError as error:
                    raise _unfit(f"{self.name}: {error} - in query argument `{name}`") from None
        return arguments

    def _listed(self) -> str:
        return ", ".join(self.names) or "none"


def _unfit(text: str) -> BadRequest:
    """Arguments that do not fit: the method does not run."""
    error = BadRequest(text)
    error.taken = "no"
    return error


def _from_text(values: list[str], type_: Any) -> Any:
    try:
        return msgspec.convert(values[0] if len(values) == 1 else values, type_, strict=False)
    except msgspec.ValidationError as error:
        if len(values) == 1 and "array" in str(error):
            return _from_text([values[0], values[0]], type_)[:1]
        raise


def signature_of(
    function: Callable[..., Any],
    owner: type,
    local_names: Mapping[str, Any] | None,
    given: type | None = None,
    *,
    own: int = 1,
) -> Signature:
    """Read a method's signature. DeclarationError names the class, the method and the parameter.

    Parameters annotated with the type `given` are not the caller's to pass: `Signature.given` lists them. The first
    `own` are not either: `self`.
    """
    name = f"{owner.__name__}.{function.__name__}"
    hints = _hints(function, name, local_names)
    parameters: list[Parameter] = []
    carried: list[str] = []
    found = list(inspect.signature(function).parameters.values())
    if own and not _begins_with_self(found):
        raise DeclarationError(f"{name}: `self` is missing, the first parameter of a method")
    for parameter in found[own:]:
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY}:
            raise DeclarationError(f"{name}: parameter {parameter.name!r} must be an ordinary named parameter")
        type_ = hints.get(parameter.name, Any)
        if given is not None and type_ is given:
            carried.append(parameter.name)
            continue
        check_type(type_, f"{name}: parameter {parameter.name!r}")
        required, by_position = parameter.default is _NOTHING, parameter.kind is not parameter.KEYWORD_ONLY
        parameters.append(Parameter(parameter.name, type_, required, _exact(type_), by_position))
    returns = hints.get("return", Any)
    check_type(returns, f"{name}: its result")
    return Signature(name, parameters, returns, tuple(carried))


def _begins_with_self(parameters: Sequence[inspect.Parameter]) -> bool:
    """An annotation says that something else is meant; only `self` itself has one now and then."""
    first = parameters[0] if parameters else None
    return first is not None and (first.name == "self" or first.annotation is first.empty)


def _hints(function: Callable[..., Any], name: str, local_names: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, localns=dict(local_names or {}), include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{name}: annotation {error.name!r} cannot be resolved; is it imported at run time?"
        ) from error
    except TypeError as error:
        raise DeclarationError(f"{name}: an annotation cannot be resolved: {error}") from error


def check_type(type_: Any, where: str) -> None:
    """DeclarationError where values of a type cannot travel."""
    try:
        info = msgspec.inspect.type_info(type_)
    except (TypeError, RecursionError) as error:
        raise DeclarationError(f"{where} has type {_shown(type_)}, which cannot travel: {error}") from error
    custom = next((one.cls for one in _inner_types(info) if isinstance(one, msgspec.inspect.CustomType)), None)
    if custom is not None:
        within = "" if custom is type_ else f", within {_shown(type_)}"
        fitting = "a msgspec.Struct, dataclass, TypedDict or plain type"
        instead = "Any, where it may be whatever travels, or " if custom is object else ""
        raise DeclarationError(
            f"{where} has type {_shown(custom)}{within}, which cannot travel; use {instead}{fitting}"
        )


def _inner_types(info: msgspec.inspect.Type, seen: frozenset[int] = frozenset()) -> Iterator[msgspec.inspect.Type]:
    """A type and all it is made of, but for those that may travel by themselves."""
    if isinstance(info, msgspec.inspect.CustomType) and is_extended(info.cls):
        return
    yield info
    if id(info) in seen:
        return
    for name in info.__struct_fields__:
        value = getattr(info, name)
        for inner in value if isinstance(value, tuple) else (value,):
            field = getattr(inner, "type", inner) if isinstance(inner, msgspec.inspect.Field) else inner
            if isinstance(field, msgspec.inspect.Type):
                yield from _inner_types(field, seen | {id(info)})


def _exact(type_: Any) -> frozenset[type]:
    """The types whose values are handed over as they are where this annotation stands."""
    options = (
        typing.get_args(type_)
        if isinstance(type_, types.UnionType) or typing.get_origin(type_) is typing.Union
        else (type_,)
    )
    plain = {type(None) if option is None else typing.get_origin(option) or option for option in options}
    return frozenset(plain) if all(one in _SCALARS or is_extended(one) for one in plain) else frozenset()


def _shown(type_: Any) -> str:
    return type_.__name__ if isinstance(type_, type) else str(type_).replace("typing.", "")


def locals_where_defined(depth: int) -> dict[str, Any] | None:
    """Names visible where a class inside a function is being written, so that its annotations resolve."""
    frame = sys._getframe(depth)  # noqa: SLF001 - annotations of local classes can be resolved in no other way
    body = frame.f_locals
    if "<locals>" not in str(body.get("__qualname__", "")):
        return None
    outer = frame.f_back
    return {**(outer.f_locals if outer is not None else {}), **body}
