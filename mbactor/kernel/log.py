"""`self.log`: lines from user code, on the same event stream as everything else."""

from __future__ import annotations

from typing import Any

from mbactor import observe
from mbactor.secret import hidden


class Log:
    """`self.log.info("order placed", order_id=order_id)`: an event with fields, not a formatted text.

    Secrets among the fields are hidden.
    """

    __slots__ = ("_source",)

    def __init__(self, source: str) -> None:
        self._source = source

    def debug(self, message: str, /, **fields: Any) -> None:
        self._emit("debug", message, fields)

    def info(self, message: str, /, **fields: Any) -> None:
        self._emit("info", message, fields)

    def warning(self, message: str, /, **fields: Any) -> None:
        self._emit("warning", message, fields)

    def error(self, message: str, /, **fields: Any) -> None:
        self._emit("error", message, fields)

    def _emit(self, level: str, message: str, fields: dict[str, Any]) -> None:
        if observe.active() or level in {"warning", "error"}:
            observe.emit("log", **{**hidden(fields), "level": level, "message": message, "actor": self._source})
