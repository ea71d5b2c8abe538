"""`Guard`: whether what is asked within the process would be let through by the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbactor.kernel.context import current
from mbactor.kernel.sending import NO_WAYS
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.permissions import Permissions

if TYPE_CHECKING:
    from mbactor.kernel.node import Node


class Guard:
    """Stands before the mailboxes of a process whose connection may not publish everything.

    What the broker would not let through, and what is sent while its rules are not known, is given to the broker, which
    refuses it (Forbidden, 403) or not. So there is one judge, and it makes no difference where an actor runs. What the
    rules admit goes straight into the mailbox, as everything does where there are none.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._permissions: Permissions | None = None

    def open(self) -> None:
        """The bus is connected: learn what may be published, now and after each loss of the connection."""
        node = self._node
        reply = subjects.reply_subject(node.plane, "", node.name, node.id, "permissions")
        node.remote.bus.when_permitted(reply, self._learnt)

    def admits(self, address: Address) -> bool:
        """Whether a message to an address here need not be given to the broker."""
        known = self._permissions
        source = self._node.remote.source(current.get())
        return known is not None and known.admit(subjects.request_subject(self._node.plane, source, address))

    def _learnt(self, permissions: Permissions | None) -> None:
        self._permissions = permissions
        node = self._node
        node.guard = None if permissions is not None and not permissions.restricts else self
        if node.guard is not None:
            for cell in list(node.cells.values()):
                cell.ways = NO_WAYS  # the short ways into a mailbox pass nobody
