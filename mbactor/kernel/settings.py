"""What a process is told by its environment. The only module that reads it.

`MBACTOR_PLANE` names the plane (the prefix that keeps applications on one broker apart); the `OTEL_*`
variables are OpenTelemetry's own and are only looked at to see whether telemetry is wanted. `NO_COLOR` is that of
no-color.org.
"""

from __future__ import annotations

import os  # the environment is read here and nowhere else
from collections.abc import Mapping
from dataclasses import dataclass

from mbactor.errors import InvalidSpec


@dataclass(frozen=True, slots=True)
class Settings:
    """The process's settings; `from_environment()` reads them."""

    plane: str = "mbactor"
    telemetry: bool = False
    """Whether any OpenTelemetry exporter is configured."""

    def __post_init__(self) -> None:
        if not self.plane.isalnum() or not self.plane.isascii():
            raise InvalidSpec(f"plane {self.plane!r}: expected letters and digits only (MBACTOR_PLANE)")

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Settings:
        found = environment() if variables is None else variables
        return cls(plane=found.get("MBACTOR_PLANE", "mbactor"), telemetry=_telemetry_wanted(found))


def environment() -> Mapping[str, str]:
    """The process's environment, for what is interpolated into a topology file."""
    return os.environ  # noqa: TID251 - the one place


def colours_wanted() -> bool:
    """Whether what a person reads may have colours."""
    return not environment().get("NO_COLOR")


def _telemetry_wanted(variables: Mapping[str, str]) -> bool:
    if variables.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    names = ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER")
    chosen = [variables[name] for name in names if variables.get(name)]
    if chosen:
        return any(value != "none" for value in chosen)
    endpoints = (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    )
    return any(variables.get(name) for name in endpoints)
