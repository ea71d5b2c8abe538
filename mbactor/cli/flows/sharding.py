"""`mbactor flows cordon`, `drain`, `add-shard` ...: which shards there are, and which of them get new flows.

Every Foreman of the same databases follows what is written here a moment later.
"""

from __future__ import annotations

import asyncio
import time

import click

from mbactor.durations import text_of
from mbactor.errors import ShardInUse
from mbactor.foreman.model.outcome import ShardInfo
from mbactor.foreman.roll import Roll
from mbactor.foreman.shards import Shards
from mbactor.foreman.store.open import shown_database

NOT_DRAINED = 3
"""Exit code where flows are still open when the waiting is over."""
LOOK_EVERY = 0.5
"""Seconds between two looks at a shard, doubled up to `LOOK_SELDOM`: each is a pass over its flows."""
LOOK_SELDOM = 8.0


async def cordon(shards: Shards, roll: Roll, number: int) -> int:
    """Let no new flows on a shard."""
    await roll.cordon(number)
    click.echo(f"shard {number}: {_standing(await _info(shards, number))}")
    return 0


async def uncordon(_: Shards, roll: Roll, number: int) -> int:
    """Let new flows on a shard again."""
    await roll.uncordon(number)
    click.echo(f"shard {number}: active, gets new flows")
    return 0


async def drain(shards: Shards, roll: Roll, number: int, within: float | None) -> int:
    """Let no new flows on a shard, and wait until no flow on it is open."""
    await roll.cordon(number)
    began, pause, told = time.monotonic(), LOOK_EVERY, ""
    while True:
        await roll.refresh()
        info = await _info(shards, number)
        if info.state == "active":
            raise ShardInUse(f"shard {number} gets new flows again: somebody has uncordoned it", shard=number)
        standing = _standing(info)
        if info.state == "drained":
            click.echo(f"shard {number}: {standing}")
            return 0
        if standing != told:
            click.echo(f"shard {number}: {standing}", err=True)
            told = standing
        left = pause if within is None else began + within - time.monotonic()
        if left <= 0:
            click.echo(f"shard {number}: not drained after {text_of(within or 0.0)}; it stays cordoned", err=True)
            return NOT_DRAINED
        await asyncio.sleep(min(pause, left))
        pause = min(2 * pause, LOOK_SELDOM)


async def add_shard(shards: Shards, roll: Roll) -> int:
    """Add the shard with the next number."""
    number = await roll.add()
    click.echo(f"shard {number}: added, {shown_database(shards.member(number).url)}")
    return 0


async def remove_shard(_: Shards, roll: Roll, number: int) -> int:
    """Forget a shard that is drained."""
    await roll.remove(number)
    click.echo(f"shard {number}: removed; its database is left as it is")
    return 0


async def _info(shards: Shards, number: int) -> ShardInfo:
    (info,) = await shards.info(number)
    return info


def _standing(info: ShardInfo) -> str:
    """What is still to be done on a shard that gets no new flows."""
    if info.error:
        return f"{info.state}, and does not answer: {info.error}"
    if info.state == "drained":
        return "drained, no flow on it is open"
    return f"{info.state}, {info.flows} open flow{'' if info.flows == 1 else 's'}"
