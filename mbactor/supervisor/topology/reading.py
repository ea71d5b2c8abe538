"""Files that people name, read so far and no further.

text = read_bounded(Path("shop.yaml"), MOST_READ).decode()
"""

from __future__ import annotations

from pathlib import Path

MOST_READ = 16 << 20
"""Bytes of a topology file: what is larger is none, and a device has no end at all."""
MOST_SECRET = 1 << 20


def read_bounded(path: Path, most: int) -> bytes:
    """What is in the file. OSError where it cannot be read, ValueError where it is more or no file can be called so."""
    with path.open("rb") as file:
        return bounded(file.read(most + 1), most)


def bounded(data: bytes, most: int) -> bytes:
    """The data, where it is not more; ValueError otherwise."""
    if len(data) > most:
        raise ValueError(f"it has more than {most >> 20} MB")
    return data
