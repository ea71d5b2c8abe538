"""Bytes between actors: addresses, subjects, envelopes and the buses that carry them.

`address.py` and `subjects.py` are pure: URL <-> address <-> bus subject. `message.py` is the envelope,
`codec.py` the values inside. `bus.py` is the contract of every bus, `local.py` the one within a process,
`link.py` lends it to another, `nats.py` is the one between machines (`nats_client.py` its connection, `nats_url.py` its
address), `embedded.py` the same with a server of its own (`nats_server.py`).
`fragments.py` cuts what is too large for one message, `reassembly.py` puts it together again; both are pure.
`requester.py` turns a bus into request and reply: `waiting.py` keeps who waits, `ask.py` is who waits for one answer,
`repeats.py` decides what is sent again, `replicas.py` knows where else. Knows nothing of actors.
"""

from mbactor.transport.address import Address
from mbactor.transport.bus import Bus, Delivery, Subscription
from mbactor.transport.local import LocalBus
from mbactor.transport.message import Envelope, Message, messages_of, payload_of
from mbactor.transport.requester import Requester
from mbactor.transport.waiting import Waiter

__all__ = [
    "Address",
    "Bus",
    "Delivery",
    "Envelope",
    "LocalBus",
    "Message",
    "Requester",
    "Subscription",
    "Waiter",
    "messages_of",
    "payload_of",
]
