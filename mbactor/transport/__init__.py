"""Bytes between actors: addresses, subjects, envelopes and the buses that carry them.

`address.py` and `subjects.py` are pure: URL <-> address <-> bus subject. `message.py` is the envelope,
`codec.py` the values inside. `bus.py` is the contract of every bus, `local.py` the one within a process,
`link.py` lends it to another, `nats.py` is the one between machines (`nats_client.py` its connection, `nats_url.py` its
address, `nats_access.py` who it is, `nats_wire.py` the socket; `nats_parser.py`, `nats_dispatch.py` and
`nats_refused.py` what comes in, `nats_permissions.py` what may be published, `nats_why.py` why not, `nats_watch.py`
whether it works),
`embedded.py` the same with a server of its own (`nats_server.py`).
`fragments.py` cuts what is too large for one message, `reassembly.py` puts it together again; both are pure.
`transfers.py` has those on their way, `large.py` the requests and answers among them.
`requester.py` turns a bus into request and reply: `lines.py` knows the subjects, `waiting.py` who waits; `ask.py` waits
for one answer, `repeats.py` decides what is sent again, `replicas.py` knows where else, `outbox.py` sends together what
leaves in one turn, of which `turn.py` is the end, `failures.py` says why there is no answer, `reserved.py` keeps the
places of who is away, `peers.py` asks who has room instead, `headers.py` says what goes on to others.
`multicast.py` asks all, as `responders.py` decides; `locality.py` says where the nearest is, `near.py` asks there;
`remembered.py` is what both may forget.
`permissions.py` is what a broker lets through. Knows nothing of actors.

**For a program without mbactor.** Any NATS client can ask an actor, and be asked by one, in five steps; with `mbactor`
as the plane (unless `MBACTOR_PLANE` says otherwise), `billing.example` as the name of the program, and `id-7f3a` as its
own id (`id-` and random letters):

1. Subscribe once to the inbox `mbactor.reply._.*.*.id-7f3a.*`.
2. Publish to `mbactor.safe.443.billing_example.orders_example._.post.place` what is meant for
   `POST https://orders.example/place`: dots of a host become `_`, a segment of the path is one token, and what is no
   letter, digit or hyphen is `%` with two lower-case hex digits a byte. The fourth token is who asks. The reply subject
   is `mbactor.reply._.orders_example.billing_example.id-7f3a.1`: to an inbox of another than who asks nobody answers.
3. The payload is the byte 3 and a msgpack array of up to 1,024 messages, here of one. A message is an array of its
   envelope and its body, a bin. The envelope is an array, here of `"ask"`, `"1"` (unique among the requests of this
   id), the seconds the answer may take, two empty texts, and `"application/json"`. The body is a JSON object of the
   method's arguments.
4. What comes to the inbox is such a payload, of one or more messages. One whose envelope begins with `"reply"`, `"1"`
   has the result as its body (in the content type that is its envelope's sixth element, or in msgpack where it ends
   before that), `"error"` has a map with `error`, `statusCode` and `type`, and `"ack"` says that the actor has the
   request and will answer later. Empty, with the NATS status 503: nobody serves it.
5. To be asked, subscribe to `mbactor.safe.443.*.billing_example._.post.>` with the queue `billing.example`; publish
   the reply with the `id` of the request to its reply subject, if that is the inbox of who asks: its fifth token is the
   fourth of the subject. An envelope of `"reply"` or `"error"` is as in step 4. Within a second reply or acknowledge,
   by `"ack"` and an empty body. Only an `"ask"` is to be answered: a `"tell"` and a `"publish"` want no answer, a
   `"cancel"` says that the request with this id is not wanted any more, and anything else is passed over.

Whoever acknowledges is waited for until the time is up; unless the fourth element of its envelope is the id of the
program, which is also subscribed, without a queue, to `mbactor.safe.443.*.billing_example.id-7f3a.>`: then who asks is
told when it dies. An envelope with a twelfth element other than `[1, 1]` is that of a message larger than the broker
carries in one. It comes with the first piece, and the others only to who asks for them, in a way that is not described
here: answer such a request by an `"error"`, and ask for what is smaller.
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
