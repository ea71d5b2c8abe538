"""The commands that change which shards there are."""

from __future__ import annotations

from typing import Any

import click

from mbactor.cli.flows.group import WHERE, duration_of, flows, work_on_roll

SHARD = click.argument("shard", metavar="SHARD", type=int)


@flows.command(short_help="Let no new flows on a shard.")
@SHARD
@WHERE
def cordon(shard: int, **given: Any) -> None:
    """Let no new flows on a shard; those that are there go on, and what follows from them stays there.

    Every Foreman of the same databases keeps to it a moment later. `shards` prints it as drained once no flow on it is
    open.
    """
    from mbactor.cli.flows.sharding import cordon as cordoned

    work_on_roll(given, lambda shards, roll: cordoned(shards, roll, shard))


@flows.command(short_help="Let new flows on a shard again.")
@SHARD
@WHERE
def uncordon(shard: int, **given: Any) -> None:
    """Let new flows on a shard again."""
    from mbactor.cli.flows.sharding import uncordon as uncordoned

    work_on_roll(given, lambda shards, roll: uncordoned(shards, roll, shard))


@flows.command(short_help="Cordon a shard and wait until no flow on it is open.")
@SHARD
@WHERE
@click.option("--within", metavar="DURATION", help="Wait at most so long.  [default: until it is drained]")
def drain(shard: int, within: str | None, **given: Any) -> None:
    """Cordon a shard and wait until no flow on it is open. Nothing ends these flows: a Foreman has to run them.

    Exit code 0 when it is drained, 3 when it is not within that time; it stays cordoned. Ctrl-C leaves it so too.
    """
    from mbactor.cli.flows.sharding import drain as drained

    limit = duration_of("within", within)
    work_on_roll(given, lambda shards, roll: drained(shards, roll, shard, limit))


@flows.command("add-shard", short_help="Add the shard with the next number.")
@WHERE
def add_shard(**given: Any) -> None:
    """Add the shard with the next number, whose database has to be there (a file of SQLite is made).

    The URL of the database has to have %d, the place of the number. Every Foreman of the same databases learns of it,
    and puts flows there, a moment later.
    """
    from mbactor.cli.flows.sharding import add_shard as added

    work_on_roll(given, added)


@flows.command("remove-shard", short_help="Forget a shard that is drained.")
@SHARD
@WHERE
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove_shard(shard: int, yes: bool, **given: Any) -> None:
    """Forget a shard that is drained, for good: its flows are not found any more, its number is not used again.

    Its database is left as it is. Exit code 4 where a flow on it is open, or it is not cordoned.
    """
    from mbactor.cli.flows.sharding import remove_shard as removed

    if not yes:
        click.confirm(f"Forget shard {shard} and the flows on it for good?", abort=True, err=True)
    work_on_roll(given, lambda shards, roll: removed(shards, roll, shard))
