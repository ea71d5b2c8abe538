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


def printer_of(process: subprocess.Popen[bytes], name: str) -> threading.Thread:
    """A thread, to be started, that prints each line of the process's output here, with its name before it. It ends
    when all is printed that the process, and whatever that has started, had to say.
    """
    return threading.Thread(target=_pump, args=(process, name), name=f"mbactor-output-{process.pid}", daemon=True)


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
