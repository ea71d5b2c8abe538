"""The scenarios that are played on OTP's supervisor and on ours: read from `scenarios.yaml`, defaults filled in.

    .venv/bin/python -m tests.supervisor.otp.scenarios

plays them on the Erlang that is installed and writes `transcripts.json` anew.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
TRANSCRIPTS = HERE / "transcripts.json"
ENTRY = list[Any]
"""What happened: a word and what it is about, such as ["start", "a"]."""
STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
RESTARTS = ("permanent", "transient", "temporary")
REASONS = ("normal", "shutdown", "detail", "crash", "killed")


def scenarios() -> list[dict[str, Any]]:
    """All of them: those of the file, and one for each cell of the table of restarts."""
    return [_whole(one) for one in [*yaml.safe_load((HERE / "scenarios.yaml").read_text()), *_table()]]


def _table() -> list[dict[str, Any]]:
    return [
        {
            "name": f"{strategy}, {restart}, {reason}",
            "strategy": strategy,
            "children": ["a", {"id": "b", "restart": restart}, {"id": "t", "restart": "temporary"}, "c"],
            "steps": [f"exit b {reason}", "which"],
        }
        for strategy, restart, reason in product(STRATEGIES, RESTARTS, REASONS)
    ]


def _whole(given: dict[str, Any]) -> dict[str, Any]:
    known = {"name", "steps", *_tree({}), "dynamic"}
    assert given.keys() <= known, given.keys() - known
    whole = {"name": given["name"], **_tree(given), "steps": [_step(step) for step in given["steps"]]}
    if "dynamic" in given:
        whole["dynamic"] = _child({"id": "template", **given["dynamic"]})
    return whole


def _tree(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "strategy": "simple_one_for_one" if "dynamic" in given else given.get("strategy", "one_for_one"),
        "intensity": given.get("intensity", 3),
        "period": given.get("period", 5),
        "auto_shutdown": given.get("auto_shutdown", "never"),
        "children": [_child(one) for one in given.get("children", [])],
    }


def _child(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        given = {"id": given}
    whole = {"restart": "permanent", "shutdown": 5000, "significant": False, "plan": [], "stop": "ok", **given}
    if "supervisor" in given:
        whole["shutdown"] = given.get("shutdown", "infinity")
        whole["supervisor"] = _tree(given["supervisor"])
    return whole


def _step(given: Any) -> Any:
    match given:
        case {"together": steps}:
            return {"together": [_step(step) for step in steps]}
        case {"add": child, **where}:
            return ["add", _child(child), where.get("under", "top")]
        case str():
            return [int(word) if word.isdecimal() else word for word in given.split()]
    raise ValueError(given)


# --- OTP --------------------------------------------------------------------------------------------------------


def erlang_is_here() -> bool:
    return shutil.which("erl") is not None and shutil.which("erlc") is not None


def record() -> dict[str, Any]:
    """Play all scenarios on the Erlang that is installed."""
    with tempfile.TemporaryDirectory() as folder:
        terms = Path(folder) / "scenarios.terms"
        terms.write_text(f"%% coding: utf-8\n[{', '.join(_term(one) for one in scenarios())}].\n")
        subprocess.run(["erlc", "-o", folder, HERE / "probe.erl"], check=True)
        command = ["erl", "-noshell", "+S", "1", "-pa", folder, "-run", "probe", "main", str(terms)]
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    played = json.loads(told.stdout)
    played["transcripts"] = {one["name"]: one["log"] for one in played["transcripts"]}
    return dict(played)


def _term(value: Any) -> str:
    match value:
        case {"together": steps}:
            return f"{{together, {_term(steps)}}}"
        case dict():
            return "#{" + ", ".join(f"{_term(key)} => {_term(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_term, value)) + "]"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case str():
            return "'" + value.replace("'", "\\'") + "'"
    raise ValueError(value)


def _text(played: dict[str, Any]) -> str:
    """One line for each entry would be long, one for all unreadable: one for each scenario."""
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(log)}" for name, log in played["transcripts"].items())
    return f'{{\n  "otp": "{played["otp"]}",\n  "erts": "{played["erts"]}",\n  "transcripts": {{\n{lines}\n  }}\n}}\n'


if __name__ == "__main__":
    TRANSCRIPTS.write_text(_text(record()))
