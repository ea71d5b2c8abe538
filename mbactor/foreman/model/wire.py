"""The carrier on its way to the process that runs the task, and what comes back (pure)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from mbactor.errors import InvalidState
from mbactor.foreman.model.signals import ParkRecord, Signals
from mbactor.foreman.model.state import Fields


class Carrier(msgspec.Struct, rename="camel", omit_defaults=True):
    """All that a `Flow` is made of."""

    flow_key: str = ""
    step_key: str = ""
    state: dict[str, msgspec.Raw] = {}
    changes: dict[str, msgspec.Raw] = {}
    attempt: int = 0
    step_created_at: dt.datetime | None = None
    baggage: dict[str, Any] = {}
    parks: tuple[ParkRecord, ...] = ()


class RunResult(msgspec.Struct, rename="camel", omit_defaults=True):
    """What a run wrote and asked for."""

    changes: dict[str, msgspec.Raw] = {}
    signals: Signals = msgspec.field(default_factory=Signals)


_encoder = msgspec.json.Encoder()
_carrier_decoder = msgspec.json.Decoder(Carrier)
_result_decoder = msgspec.json.Decoder(RunResult)


def encode(value: Carrier | RunResult) -> bytes:
    return _encoder.encode(value)


def decode_carrier(data: bytes) -> Carrier:
    """`InvalidState` when the text is no carrier."""
    try:
        carrier = _carrier_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidState(f"not the wire form of a flow: {error}") from None
    carrier.state = _owned(carrier.state)
    carrier.changes = _owned(carrier.changes)
    return carrier


def decode_result(data: bytes) -> RunResult:
    """`InvalidState` when the text is no result of a run."""
    try:
        result = _result_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidState(f"not the result of a task run: {error}") from None
    result.changes = _owned(result.changes)
    return result


def _owned(fields: Fields) -> Fields:
    # Decoded values are views that keep the whole text alive.
    return {name: raw.copy() for name, raw in fields.items()}
