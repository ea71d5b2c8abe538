"""Mailboxes: bounded queues with lanes. A data structure that knows nothing of messages.

`mailbox.py` is what users declare (`Mailbox(capacity=1000, overflow="reject")`), `overflow.py` decides
what a full mailbox does (pure), `queue.py` is the queue itself, `keyed.py` the one
that lets one item of a key pass at a time.
"""

from mbactor.mailbox.keyed import KeyedQueue
from mbactor.mailbox.mailbox import Mailbox, MailboxStatistics
from mbactor.mailbox.overflow import Overflow
from mbactor.mailbox.queue import Lane, MailboxQueue

__all__ = ["KeyedQueue", "Lane", "Mailbox", "MailboxQueue", "MailboxStatistics", "Overflow"]
