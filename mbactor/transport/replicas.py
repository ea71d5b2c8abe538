"""Which replicas of which hosts have answered lately: where a request may go that another one has refused."""

from __future__ import annotations

HOSTS, EACH = 512, 16
"""How many are remembered at most; the one that is known for the longest time is forgotten first."""


class Replicas:
    """The replicas that are known, by host. Those that are not there any more are taken for known until tried."""

    def __init__(self) -> None:
        self._hosts: dict[str, dict[str, None]] = {}

    def saw(self, host: str, replica: str) -> None:
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = {}
            if len(self._hosts) > HOSTS:
                del self._hosts[next(iter(self._hosts))]
        if replica not in known:
            known[replica] = None
            if len(known) > EACH:
                del known[next(iter(known))]

    def others(self, host: str, than: str) -> list[str]:
        """Those of a host but for one."""
        return [replica for replica in self._hosts.get(host, ()) if replica != than]

    def count(self, host: str) -> int:
        """How many of a host are known."""
        return len(self._hosts.get(host, ()))

    def gone(self, host: str, replica: str) -> None:
        self._hosts.get(host, {}).pop(replica, None)
