"""`mbactor flows list`, `show` and `history`: what there is, printed."""

from __future__ import annotations

from pathlib import Path

import click

from mbactor import clock
from mbactor.cli.flows.card import flow_card, step_card
from mbactor.cli.flows.database import tell_warning
from mbactor.cli.flows.printing import print_json, print_rich, terminal_width
from mbactor.cli.flows.table import flows_table, history_table, shards_table
from mbactor.errors import BadRequest
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.page import history_page
from mbactor.foreman.render import history_mermaid
from mbactor.foreman.shards import Shards


async def list_flows(shards: Shards, query: FlowQuery, *, json: bool) -> int:
    """Print a page of flows."""
    page = await shards.list(query)
    for note in page.notes:
        tell_warning(note)
    if json:
        print_json(page)
        return 0
    if not page.flows:
        click.echo("no flows", err=True)
        return 0
    print_rich(flows_table(page.flows, clock.utcnow(), width=terminal_width()))
    if page.next_cursor:
        click.echo(click.style(f"\nthere are more: --cursor {page.next_cursor}", dim=True), err=True)
    return 0


async def list_shards(shards: Shards, *, json: bool) -> int:
    """Print how each shard fares."""
    infos = await shards.info()
    if json:
        print_json(infos)
    else:
        print_rich(shards_table(infos, width=terminal_width()))
    return 1 if any(one.error for one in infos) else 0


async def show_flow(shards: Shards, flow_key: str, *, json: bool, where: str = "") -> int:
    """Print one flow; `where` are the options that name its database, for the commands that it suggests."""
    engine = shards.of(flow_key)
    flow, outcome = await engine.summary(flow_key), await engine.snapshot(flow_key)
    if json:
        print_json({"flow": flow, "outcome": outcome})
    else:
        print_rich(flow_card(flow, outcome, clock.utcnow(), where))
    return 0


async def show_fingerprint(shards: Shards, flow_key: str, *, json: bool) -> int:
    """Print the hash of all that happened in a flow, and its status."""
    fingerprint, status = await shards.of(flow_key).fingerprint(flow_key)
    if json:
        print_json({"fingerprint": fingerprint, "status": status})
    else:
        click.echo(f"{fingerprint} {status}")
    return 0


async def show_step(shards: Shards, step_key: str, *, json: bool) -> int:
    """Print one step."""
    step = await shards.of(step_key, "step").step(step_key)
    if json:
        print_json(step)
    else:
        print_rich(step_card(step))
    return 0


async def show_history(shards: Shards, flow_key: str, *, html: Path | None, mermaid: bool, json: bool) -> int:
    """Print the steps of a flow, or write its page."""
    engine = shards.of(flow_key)
    flow, steps = await engine.summary(flow_key), await engine.history(flow_key)
    if html is not None:
        _write(html, history_page(flow, steps, clock.utcnow()))
        click.echo(f"{html}: {len(steps)} steps of {flow.workflow_name or flow.workflow}")
    elif mermaid:
        click.echo(history_mermaid(steps, title=flow.workflow_name).rstrip("\n"))
    elif json:
        print_json(steps)
    else:
        print_rich(history_table(steps, width=terminal_width()))
    return 0


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"--html {file}: cannot be written: {error.strerror}") from None
