"""The JSON Schema of the topology file, so that editors complete and check it.

json.dumps(schema())
json.dumps(schema(overlay=True))                           # of a file for `-o`
json.dumps(schema(classes={"shop.orders:Orders": Orders}))      # with what these classes declare
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mbactor.kernel.properties import ABSENT, Property, properties_of
from mbactor.mailbox.overflow import OVERFLOWS
from mbactor.supervisor.spec import AUTO_SHUTDOWNS, MOST_REPLICAS, RESTARTS, STRATEGIES
from mbactor.supervisor.topology.classes import short_kinds
from mbactor.supervisor.topology.kinds import KEYS
from mbactor.transport.reassembly import MAX_BODY
from mbactor.validation import Range, Rule

_REFERENCE = r"\$\{"
_DURATION = r"(\s*\d+(\.\d+)?\s*(us|µs|ms|s|m|h|d))+\s*"


def schema(*, overlay: bool = False, classes: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The schema of a topology file, or of an overlay; short kinds are those that are installed here.

    `classes` are those of which the `config` is known, by the `module:Class` that a file has for them.
    """
    child = {"anyOf": [*_kinds(), _part()] if overlay else [*_kinds(), {**_part(), "required": ["template"]}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mbactor topology overlay" if overlay else "mbactor topology",
        "type": "object",
        "additionalProperties": False,
        "required": [] if overlay else ["version", "supervisor"],
        "properties": {
            "version": {"const": 1},
            "name": {"type": "string", "pattern": r"^[^/]*$|\$\{", "description": "default: the name of the file"},
            "transport": {"type": "string", "pattern": r"^(local|embedded)$|^(nats|tls)://|\$\{", "default": "local"},
            "locality": {
                "type": "string",
                "pattern": r"^[a-z0-9]+(-[a-z0-9]+)*$|\$\{",
                "description": "where this part of the system runs, from the general to the special: eu-west-b-1",
            },
            "ack_window": {"$ref": "#/$defs/duration", "default": "1s"},
            "max_body": {
                **_whole(1, default=MAX_BODY),
                "description": "bytes that arguments and results may have that travel to other systems",
            },
            "coalesce": {
                **_boolean(default=True),
                "description": "whether what leaves for one address within one turn of the loop travels together",
            },
            "templates": {
                "type": "object",
                "additionalProperties": {"$ref": "#/$defs/part"},
                "description": "parts that children are made of: `template: name`",
            },
            "supervisor": _closed(_tree(), []),
        },
        "$defs": {
            "duration": _duration(),
            "shutdown": _duration("brutal", "infinity"),
            "backoff": _backoff(),
            "mailbox": _mailbox(),
            "children": {"type": "array", "items": {"$ref": "#/$defs/child"}},
            "child": {**(_with_remove(child) if overlay else child), **_of_classes(classes or {})},
            "part": _part(),
        },
    }


def _of_classes(classes: Mapping[str, type]) -> dict[str, Any]:
    known = {name: properties_of(cls) for name, cls in sorted(classes.items())}
    cases = [
        {
            "if": {"properties": {"actor": {"const": name}}, "required": ["actor"]},
            "then": {"properties": {"config": _closed({p.name: _property(p) for p in properties.values()}, [])}},
        }
        for name, properties in known.items()
    ]
    return {"allOf": cases} if cases else {}


def _property(declared: Property) -> dict[str, Any]:
    found = {"anyOf": [_of_rule(declared.rule), {"type": "null"}]} if declared.optional else _of_rule(declared.rule)
    if declared.description:
        found = {**found, "description": declared.description}
    said = declared.default is not ABSENT and declared.default is not None
    if not said or declared.secret or declared.rule is None:
        return found
    return {**found, "default": declared.rule.written_as(declared.default)}


def _of_rule(rule: Rule | None) -> dict[str, Any]:
    """None is any value: what it is made of is for `check` to say."""
    if rule is None:
        return {}
    match rule.kind:
        case "dur":
            return {"$ref": "#/$defs/duration"}
        case "set":
            return _choice(*(word for word, _ in rule.choices))
        case "bool":
            return _or_reference({"type": "boolean"})
        case "int" | "float":
            return _or_reference({"type": "integer" if rule.kind == "int" else "number", **_bounds(rule.range)})
        case _:
            return {"type": "string"}


def _bounds(range: Range | None) -> dict[str, Any]:
    if range is None:
        return {}
    low = {"minimum" if range.with_low else "exclusiveMinimum": range.low}
    high = {"maximum" if range.with_high else "exclusiveMaximum": range.high}
    return {name: bound for name, bound in {**low, **high}.items() if bound is not None}


def _closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _or_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """A value, or a text with a reference to the environment in it."""
    return {"anyOf": [schema, {"type": "string", "pattern": _REFERENCE}]}


def _choice(*words: str) -> dict[str, Any]:
    return _or_reference({"enum": list(words)})


def _whole(least: int, **more: Any) -> dict[str, Any]:
    return _or_reference({"type": "integer", "minimum": least, **more})


def _boolean(*, default: bool = False) -> dict[str, Any]:
    return _or_reference({"type": "boolean", "default": default})


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
    # What is missing may come from a template or from what an overlay changes.
    return _closed(properties, [])


def _mailbox() -> dict[str, Any]:
    return _closed({"capacity": _whole(1, default=1000), "overflow": _choice(*OVERFLOWS)}, [])


def _tree() -> dict[str, Any]:
    return {
        "strategy": _choice(*STRATEGIES),
        "max_restarts": _whole(0, default=3),
        "within": {"$ref": "#/$defs/duration"},
        "auto_shutdown": _choice(*AUTO_SHUTDOWNS),
        "children": {"$ref": "#/$defs/children"},
    }


def _common() -> dict[str, Any]:
    return {
        "id": {"type": "string", "description": "default: the class name in kebab-case"},
        "template": {"type": "string", "description": "what it is made of; its own keys win"},
        "restart": _choice(*RESTARTS),
        "shutdown": {"$ref": "#/$defs/shutdown"},
        "backoff": {"$ref": "#/$defs/backoff"},
        "config": {"type": "object"},
        "significant": _boolean(),
        "process": {**_boolean(), "description": "run it in an OS process of its own"},
        "after": {"type": "array", "items": {"type": "string"}, "description": "siblings that are started before it"},
    }


def _properties() -> dict[str, dict[str, Any]]:
    """All keys that a child of any kind may have."""
    own = {
        "replicas": _whole(1, maximum=MOST_REPLICAS, default=1),
        "partitions": {**_whole(1, maximum=MOST_REPLICAS), "description": "run so many of its one child"},
        "mailbox": {"$ref": "#/$defs/mailbox"},
        "args": {"type": "object"},
    }
    properties = {**_common(), **_tree(), **own}
    assert properties.keys() == KEYS
    return properties


def _kinds() -> list[dict[str, Any]]:
    reference = {"type": "string", "pattern": r"^[\w.]+:[\w.]+$|\$\{", "description": "module:Class"}
    every, common, tree = _properties(), _common(), _tree()
    of_class = {key: value for key, value in every.items() if key not in {*tree, "partitions"}}
    of_supervisor = {key: value for key, value in of_class.items() if key != "mailbox"}
    nested = {**common, **tree, "replicas": every["replicas"], "partitions": every["partitions"]}
    del nested["id"]
    return [
        _closed({"actor": reference, **of_class}, ["actor"]),
        _closed({"supervisor": reference, **of_supervisor}, ["supervisor"]),
        _closed({"supervisor": {"type": "string", "pattern": "^[^:]+$"}, **nested}, ["supervisor"]),
        _closed({"include": {"type": "string", "description": "a file, relative to this one"}}, ["include"]),
        *(_closed({kind: {"type": ["object", "null"]}, **common}, [kind]) for kind in sorted(short_kinds())),
    ]


def _part() -> dict[str, Any]:
    """Some keys of a child, of whatever kind it turns out to be."""
    kinds = {kind: {"type": ["object", "null"]} for kind in short_kinds()}
    return _closed({"actor": {"type": "string"}, "supervisor": {"type": "string"}, **kinds, **_properties()}, [])


def _with_remove(child: dict[str, Any]) -> dict[str, Any]:
    taken = {"remove": {**_boolean(), "description": "take the child away"}}
    return {"anyOf": [{**one, "properties": {**one["properties"], **taken}} for one in child["anyOf"]]}
