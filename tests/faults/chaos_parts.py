"""A house of many actors that write down what they are told, for the tests that kill parts of it."""

from __future__ import annotations

import asyncio
import os
import random

from mbactor import Actor, Exit, Supervisor, child, endpoint

ACTORS = 20


class Clerk(Actor):
    """Writes each number down, then answers."""

    host = "clerk.chaos.example"

    def __init__(self, desk: str, journal: str) -> None:
        self.desk = desk
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def on_stop(self, exit: Exit) -> None:
        os.close(self._journal)

    @endpoint
    async def put(self, number: int) -> int:
        await asyncio.sleep(random.random() / 200)
        os.write(self._journal, f"{number}\n".encode())
        await asyncio.sleep(random.random() / 200)
        return number

    @endpoint
    async def crash(self) -> None:
        raise RuntimeError("chaos")

    @endpoint
    async def where(self) -> tuple[str, int]:
        return self.desk, os.getpid()


class Row(Supervisor):
    """Some clerks. No budget ends it."""

    def __init__(self, name: str, strategy: str, journal: str, max_restarts: int) -> None:
        super().__init__(
            strategy=strategy,  # type: ignore[arg-type]
            max_restarts=max_restarts,
            within="60s",
            children=[
                child(Clerk, id=f"clerk-{n}", args={"desk": f"{name}/{n}", "journal": journal}, shutdown="1s")
                for n in range(ACTORS)
            ],
        )


class House(Supervisor):
    """Some rows: what runs in one node."""

    def __init__(self, name: str, rows: int, journal: str, max_restarts: int = 1_000_000) -> None:
        strategies = ("one_for_one", "rest_for_one", "one_for_all")
        super().__init__(
            max_restarts=max_restarts,
            within="60s",
            children=[
                child(
                    Row,
                    id=f"row-{n}",
                    args={
                        "name": f"{name}/{n}",
                        "strategy": strategies[n % 3],
                        "journal": journal,
                        "max_restarts": max_restarts,
                    },
                )
                for n in range(rows)
            ],
        )
