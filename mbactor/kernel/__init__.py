"""One actor, running. Knows nothing of trees or workflows.

`actor.py` is the class users extend, `features/` what its methods may be, `ref.py` what others hold.
`sending.py` is where asks and tells start. `cell.py` runs an actor incarnation after incarnation, `gate.py` lets its
messages pass, `worker.py` runs them, within what `pipeline.py` puts around a method. `node.py` is what the actors of a
process share, `serving.py` what they are reached by, `remote.py` its half that speaks over the bus by `ways.py`,
`answers.py` what it owes there, `multicast.py` what comes of a request to all. `schema.py` reads signatures,
`routes.py` makes them ready, `context.py` is the call at hand, `budget.py` how long it may take, `waits.py` who waits
for whom. `look.py` shows it all, `watchdog.py` tells what blocks the loop.
"""

from mbactor.kernel.actor import Actor
from mbactor.kernel.client import Response
from mbactor.kernel.dead_letters import DeadLetter, DeadLetters
from mbactor.kernel.exit import Exit
from mbactor.kernel.feature import Feature, Operation, Reference
from mbactor.kernel.features.config import config
from mbactor.kernel.features.endpoint import endpoint
from mbactor.kernel.features.event import EventReference, event
from mbactor.kernel.features.sink import sink
from mbactor.kernel.multicast import Replies, Reply
from mbactor.kernel.ref import ActorRef, Answer
from mbactor.kernel.timers import Timer

__all__ = [
    "Actor",
    "ActorRef",
    "Answer",
    "DeadLetter",
    "DeadLetters",
    "EventReference",
    "Exit",
    "Feature",
    "Operation",
    "Reference",
    "Replies",
    "Reply",
    "Response",
    "Timer",
    "config",
    "endpoint",
    "event",
    "sink",
]
