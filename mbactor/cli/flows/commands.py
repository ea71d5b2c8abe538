"""All commands `mbactor flows ...`."""

from __future__ import annotations

from mbactor.cli.flows import look_commands, shard_commands, steer_commands
from mbactor.cli.flows.group import flows

__all__ = ["flows", "look_commands", "shard_commands", "steer_commands"]
