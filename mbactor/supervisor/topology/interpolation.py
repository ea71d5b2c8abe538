"""References in the texts of a topology file: to the environment, to a file with a secret, to a replica's number.

    interpolate("${HOST:-localhost}:${PORT}", Sources(environ))

`${VAR:-default}` has a default (also for an empty variable), `${VAR:?message}` says what is missing,
`${VAR:+alternative}` is there only where the variable is, and `$${` is a literal `${` (`${$}` a dollar sign before a
reference). A variable that is not set and has no default is an error. What is filled in is text and nothing else: it
cannot bring structure into the file.

`${file:/run/secrets/key}` is the text of a file, less one line end, and makes the whole text a `Secret`. `${replica}`
is the number of a replica, from 1. Both are for arguments only, so that no secret is in an id or a message; a secret
may be in the transport, too, which is shown without what stands before its hosts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mbactor.secret import Secret
from mbactor.supervisor.topology.reading import MOST_SECRET, read_bounded

_REFERENCE = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?P<body>[^}]*)\}|(?P<open>\$\{.*)", re.DOTALL)
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<how>:-|:\?|:\+)(?P<rest>.*))?", re.DOTALL)
_FILE = re.compile(r"file:(?P<path>[^-?+].*)", re.DOTALL)
_FORMS = "${VAR}, ${VAR:-default}, ${VAR:?message}, ${VAR:+alternative}, ${file:path} or ${replica}"


@dataclass(frozen=True, slots=True)
class Sources:
    """What the references in a text stand for; `secrets` and `replica` say whether there are any here."""

    environ: Mapping[str, str]
    secrets: bool = False
    replica: int | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """One `${...}`. `how` is `:-`, `:?` or `:+` with its `rest`, or None."""

    kind: Literal["variable", "file", "replica"]
    name: str
    how: str | None = None
    rest: str = ""


def has_reference(text: str) -> bool:
    """Whether `interpolate` would look at more than plain text."""
    return "${" in text


def parse(text: str) -> list[str | Reference]:
    """The text in pieces: plain ones and references; ValueError where a reference is malformed."""
    pieces: list[str | Reference] = []
    end = 0
    for match in _REFERENCE.finditer(text):
        pieces.append(text[end : match.start()])
        end = match.end()
        if match["open"] is not None:
            raise ValueError(f"{match[0]!r} given, a closing brace expected")
        pieces.append("${" if match["escaped"] else "$" if match["body"] == "$" else _reference(match["body"]))
    pieces.append(text[end:])
    return pieces


def _reference(body: str) -> Reference:
    if "${" in body:
        raise ValueError(f"${{{body}}}...}} given, a reference within another; a plain text expected there")
    if body == "replica":
        return Reference("replica", body)
    file = _FILE.fullmatch(body)
    if file is not None:
        return Reference("file", file["path"])
    variable = _VARIABLE.fullmatch(body)
    if variable is None or variable["name"] == "replica":
        raise ValueError(f"${{{body}}} given, {_FORMS} expected")
    return Reference("variable", variable["name"], variable["how"], variable["rest"] or "")


def mentions_replica(text: str) -> bool:
    """Whether the text differs from replica to replica."""
    return has_reference(text) and "${replica}" in text.replace("$${", "")


def interpolate(text: str, sources: Sources, folder: Path | None = None) -> str:
    """The text with its references filled in; ValueError says what is wrong with them.

    Files are looked for from `folder`. The result is a `Secret` where there is one in it.
    """
    filled, secret = "", False
    for piece in parse(text):
        if isinstance(piece, str):
            filled += piece
        elif piece.kind == "variable":
            filled += _variable(piece, sources.environ)
        elif piece.kind == "file":
            filled += _secret(piece, sources, folder or Path())
            secret = True
        else:
            filled += _replica(sources)
    return Secret(filled) if secret else filled


def resolved(text: str, environ: Mapping[str, str], folder: Path) -> str:
    """The text with its variables filled in; what is a secret, or differs by replica, stays a reference.

    Interpolated again, from any folder and with no environment, it gives what `text` gives.
    """
    shown, plain = "", ""
    for piece in parse(text):
        if isinstance(piece, str):
            plain += piece
        elif piece.kind == "variable":
            plain += _variable(piece, environ)
        else:
            name = piece.name if piece.kind == "replica" else f"file:{(folder / piece.name).absolute()}"
            shown += f"{_before_reference(plain)}${{{name}}}"
            plain = ""
    return shown + escaped(plain)


def escaped(text: str) -> str:
    """The text as it is written so that nothing in it is a reference."""
    return text.replace("${", "$${")


def _before_reference(text: str) -> str:
    bare = text.rstrip("$")
    return escaped(bare) + "${$}" * (len(text) - len(bare))


def _variable(reference: Reference, environ: Mapping[str, str]) -> str:
    name, how, rest = reference.name, reference.how, reference.rest
    value = environ.get(name, "")
    if how == ":+":
        return rest if value else ""
    if value or (how is None and name in environ):
        return value
    if how == ":-":
        return rest
    if how == ":?":
        raise ValueError(f"the environment variable {name} is not set: {rest}")
    raise ValueError(f"the environment variable {name} is not set, and there is no default (${{{name}:-...}})")


def _secret(reference: Reference, sources: Sources, folder: Path) -> str:
    if not sources.secrets:
        raise ValueError(
            "a secret given, and this is shown to people; only the arguments of a child and the transport can be secret"
        )
    path = folder / reference.name
    try:
        text = read_bounded(path, MOST_SECRET).decode()
    except UnicodeDecodeError:
        raise ValueError(f"the secret's file {str(path)!r} is not UTF-8") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"the secret's file {str(path)!r} cannot be read: {why}") from None
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\r\n") else text.removesuffix("\n")


def _replica(sources: Sources) -> str:
    if sources.replica is None:
        raise ValueError(
            "${replica} given, and there is no such number here; the args and config of a child with `replicas` have it"
        )
    return str(sources.replica)
