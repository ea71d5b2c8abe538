"""One actor, running. Knows nothing of trees or workflows.

`actor.py` is the class users extend, `features/` what its methods may be, `ref.py` what others hold.
`cell.py` runs an actor incarnation after incarnation, `gate.py` its messages. `node.py` is what the actors of a
process share, and where asks and tells start. `schema.py` reads signatures, `context.py` is the call at hand.
"""

from mbactor.kernel.actor import Actor
from mbactor.kernel.client import Response
from mbactor.kernel.dead_letters import DeadLetter, DeadLetters
from mbactor.kernel.exit import Exit
from mbactor.kernel.feature import Feature, Operation
from mbactor.kernel.features.endpoint import endpoint
from mbactor.kernel.ref import ActorRef

__all__ = ["Actor", "ActorRef", "DeadLetter", "DeadLetters", "Exit", "Feature", "Operation", "Response", "endpoint"]
