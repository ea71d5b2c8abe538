"""The recorded parks of a step, as they stand in its row: decoded, appended to, answered. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from mbactor.foreman.model.signals import Park, ParkRecord
from mbactor.foreman.model.state import decode_value

_decoder = msgspec.json.Decoder(tuple[ParkRecord, ...])
_error_decoder = msgspec.json.Decoder(dict[str, object])
_payload_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_encoder = msgspec.json.Encoder()


def decode_parks(data: bytes | None) -> tuple[ParkRecord, ...]:
    """The records of a step's row, in order."""
    if data is None:
        return ()
    return tuple(_owned(record) for record in _decoder.decode(data))


def parks_waiting(records: tuple[ParkRecord, ...], park: Park) -> bytes:
    """The records after a run that parked: those it passed, and one that waits for its answer."""
    return _encoder.encode((*records[: park.number], ParkRecord(park.kind, park.workflow)))


def payloads_with(data: bytes | None, payload: bytes) -> bytes:
    """The questions a step has asked, and one more."""
    asked = _payload_decoder.decode(data) if data is not None else []
    return _encoder.encode([*asked, msgspec.Raw(payload)])


def decode_payloads(data: bytes | None) -> list[Any]:
    """The questions of a step's interrupts, as plain values."""
    return [] if data is None else [decode_value(raw) for raw in _payload_decoder.decode(data)]


def parks_answered(data: bytes | None, answer: bytes | None, error: bytes | None = None) -> bytes:
    """The records once the one that waits has its answer, or the error of the flow it called."""
    given = msgspec.UNSET if error is not None else msgspec.Raw(answer or b"{}")
    failure = _error_decoder.decode(error) if error is not None else None
    records = decode_parks(data)
    index = next((i for i, record in enumerate(records) if not record.answered), None)
    if index is None:
        return data or b"[]"
    record = msgspec.structs.replace(records[index], answer=given, error=failure)
    return _encoder.encode((*records[:index], record, *records[index + 1 :]))


def parks_reopened(data: bytes | None, back: int) -> bytes | None:
    """The records of a step that waits again for a flow it called, the one so many from the last (1: the last). None
    where they have forgotten that flow: the step was tried again since.
    """
    records = decode_parks(data)
    places = [index for index, record in enumerate(records) if record.kind == "subgraph"]
    if back > len(places):
        return None
    place = places[-back]
    return _encoder.encode((*records[:place], ParkRecord("subgraph", records[place].workflow)))


def _owned(record: ParkRecord) -> ParkRecord:
    if record.answer is msgspec.UNSET:
        return record
    return msgspec.structs.replace(record, answer=msgspec.Raw(bytes(record.answer)))
