"""The JSON Schema of the topology file, so that editors complete and check it."""

from __future__ import annotations

from typing import Any, get_args

from mbactor.mailbox import Overflow
from mbactor.supervisor.spec import AUTO_SHUTDOWNS, RESTARTS, STRATEGIES
from mbactor.supervisor.topology_classes import short_kinds

_REFERENCE = r"\$\{"
_DURATION = r"(\s*\d+(\.\d+)?\s*(us|µs|ms|s|m|h|d))+\s*"


def schema() -> dict[str, Any]:
    """The schema; short kinds are those that are installed here."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mbactor topology",
        "type": "object",
        "additionalProperties": False,
        "required": ["version", "supervisor"],
        "properties": {
            "version": {"const": 1},
            "name": {"type": "string", "description": "default: the name of the file"},
            "transport": {"const": "local", "default": "local"},
            "supervisor": _closed(_tree(), []),
        },
        "$defs": {
            "duration": _duration(),
            "shutdown": _duration("brutal", "infinity"),
            "backoff": _backoff(),
            "mailbox": _mailbox(),
            "children": {"type": "array", "items": {"$ref": "#/$defs/child"}},
            "child": {"oneOf": _kinds()},
        },
    }


def _closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _or_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """A value, or a text with a reference to the environment in it."""
    return {"anyOf": [schema, {"type": "string", "pattern": _REFERENCE}]}


def _choice(*words: str) -> dict[str, Any]:
    return _or_reference({"enum": list(words)})


def _duration(*words: str) -> dict[str, Any]:
    pattern = "|".join([_DURATION, *words])
    return _or_reference({"type": "string", "pattern": f"^({pattern})$", "examples": ["500ms", "1m30s", *words]})


def _backoff() -> dict[str, Any]:
    duration = {"$ref": "#/$defs/duration"}
    properties = {
        "initial": duration,
        "maximum": duration,
        "factor": _or_reference({"type": "number", "minimum": 1, "default": 2}),
        "jitter": _or_reference({"type": "number", "minimum": 0, "maximum": 1, "default": 0.2}),
    }
    return _closed(properties, ["initial", "maximum"])


def _mailbox() -> dict[str, Any]:
    capacity = _or_reference({"type": "integer", "minimum": 1, "default": 1000})
    return _closed({"capacity": capacity, "overflow": _choice(*get_args(Overflow))}, [])


def _tree() -> dict[str, Any]:
    return {
        "strategy": _choice(*STRATEGIES),
        "max_restarts": _or_reference({"type": "integer", "minimum": 0, "default": 3}),
        "within": {"$ref": "#/$defs/duration"},
        "auto_shutdown": _choice(*AUTO_SHUTDOWNS),
        "children": {"$ref": "#/$defs/children"},
    }


def _common() -> dict[str, Any]:
    return {
        "id": {"type": "string", "description": "default: the class name in kebab-case"},
        "restart": _choice(*RESTARTS),
        "shutdown": {"$ref": "#/$defs/shutdown"},
        "backoff": {"$ref": "#/$defs/backoff"},
        "config": {"type": "object"},
        "significant": {"type": "boolean", "default": False},
        "process": {"const": False},
    }


def _kinds() -> list[dict[str, Any]]:
    reference = {"type": "string", "pattern": r"^[\w.]+:[\w.]+$", "description": "module:Class"}
    replicas = _or_reference({"type": "integer", "minimum": 1, "default": 1})
    mailbox = {"$ref": "#/$defs/mailbox"}
    of_class = {**_common(), "args": {"type": "object"}, "replicas": replicas, "mailbox": mailbox}
    nested = {**_common(), **_tree(), "supervisor": {"type": "string", "pattern": "^[^:]+$"}}
    del nested["id"]
    return [
        _closed({"actor": reference, **of_class}, ["actor"]),
        _closed({"supervisor": reference, **of_class}, ["supervisor"]),
        _closed(nested, ["supervisor"]),
        _closed({"include": {"type": "string", "description": "a file, relative to this one"}}, ["include"]),
        *(_closed({kind: {"type": ["object", "null"]}, **_common()}, [kind]) for kind in sorted(short_kinds())),
    ]
