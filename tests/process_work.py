"""What the tests of worker processes run in them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mbactor.errors import MbactorError

PATIENCE = 60.0


class Teapot(MbactorError):
    status = 418


class Work:
    @staticmethod
    def echo(body: bytes, content_type: str) -> tuple[bytes, str]:
        return body, content_type

    @staticmethod
    def pid(_: bytes, content_type: str) -> tuple[bytes, str]:
        return str(os.getpid()).encode(), content_type

    @staticmethod
    def kill(number: bytes, content_type: str) -> tuple[bytes, str]:
        os.kill(os.getpid(), int(number))
        time.sleep(PATIENCE)
        return b"", content_type

    @staticmethod
    def crash(_: bytes, content_type: str) -> tuple[bytes, str]:
        ctypes.string_at(0)
        return b"", content_type

    @staticmethod
    def leave(code: bytes, _: str) -> tuple[bytes, str]:
        os._exit(int(code))

    @staticmethod
    def fail(how: bytes, _: str) -> tuple[bytes, str]:
        match how:
            case b"teapot":
                raise Teapot("short and stout", size=2**80)
            case b"exit":
                sys.exit(3)
            case b"interrupt":
                raise KeyboardInterrupt
            case _:
                raise ValueError(how.decode())

    @staticmethod
    def speak(text: bytes, content_type: str) -> tuple[bytes, str]:
        print("printed", text.decode())
        os.write(1, b"written by C code " + text + b"\n")
        print("complained", text.decode(), file=sys.stderr)
        assert sys.stdin.read() == ""
        return text, content_type

    @staticmethod
    def meet(body: bytes, content_type: str) -> tuple[bytes, str]:
        """Ends when so many processes are in it at the same time."""
        folder, count = body.decode().split(":")
        Path(folder, str(os.getpid())).touch()
        while len(list(Path(folder).iterdir())) < int(count):
            time.sleep(0.005)
        return str(os.getpid()).encode(), content_type

    @staticmethod
    def late(body: bytes, content_type: str) -> tuple[bytes, str]:
        """Tells its process, waits, and tells that it went on."""
        folder, seconds = body.decode().split(":")
        Path(folder, "begun").write_text(str(os.getpid()))
        time.sleep(float(seconds))
        Path(folder, "went on").touch()
        return b"", content_type

    @staticmethod
    def leave_child(_: bytes, content_type: str) -> tuple[bytes, str]:
        """Dies and leaves a child that lives on."""
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        return b"", content_type


def twice(function: Callable[[bytes, str], tuple[bytes, str]], body: bytes, content_type: str) -> tuple[bytes, str]:
    result, content_type = function(body, content_type)
    return result * 2, content_type


def hold_interpreter(_: bytes, __: str) -> tuple[bytes, str]:
    """C code that does not let go of the GIL."""
    ctypes.PyDLL(None).sleep(60)
    return b"", ""
