"""What a node prints, printed here: each line with the node's id before it."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

LINE = 65_536
"""Bytes of output that are kept until their line has ended; a longer one is printed in pieces."""


def print_from(process: subprocess.Popen[bytes], name: str) -> None:
    """Print each line of the process's output here, with its name before it, from a thread of its own."""
    threading.Thread(target=_pump, args=(process, name), name=f"mbactor-output-{process.pid}", daemon=True).start()


def _pump(process: subprocess.Popen[bytes], name: str) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    rest: dict[int, bytes] = {}
    with selectors.DefaultSelector() as selector, process.stdout, process.stderr:
        selector.register(process.stdout, selectors.EVENT_READ, "stdout")
        selector.register(process.stderr, selectors.EVENT_READ, "stderr")
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, LINE)
                *lines, left = (rest.get(key.fd, b"") + data).split(b"\n")
                if left and (not data or len(left) >= LINE):
                    lines.append(left)
                    left = b""
                rest[key.fd] = left
                if not data:
                    selector.unregister(key.fileobj)
                _print(name, lines, getattr(sys, key.data))


def _print(name: str, lines: list[bytes], stream: Any) -> None:
    with suppress(OSError, ValueError, AttributeError):  # it is closed, or there is none
        for line in lines:
            text = f"{name} | {line.decode(errors='backslashreplace')}\n"
            coding = getattr(stream, "encoding", None) or "utf-8"
            stream.write(text.encode(coding, "backslashreplace").decode(coding))
        stream.flush()
