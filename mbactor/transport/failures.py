"""What whoever waits is told where no answer comes. Pure."""

from __future__ import annotations

from mbactor.errors import BudgetSpent, Forbidden, MbactorError, NoSuchActor, Unavailable
from mbactor.transport.address import Address
from mbactor.transport.ask import died
from mbactor.transport.bus import Failure
from mbactor.transport.waiting import Waiter


def error_of(address: Address, failure: Failure, told: bytes) -> MbactorError:
    """What it means for who asked an address that the bus says so."""
    match failure:
        case "no_responders":
            return NoSuchActor(str(address))
        case "refused":
            return Unavailable(f"{address} takes no messages now: its process is being restarted, or does not read")
        case "lost":
            return died(address)
        case "forbidden":
            return forbidden(f"{address}: the broker does not let this node ask it: {told.decode()}")


def forbidden(text: str) -> MbactorError:
    """The broker does not permit it. It has no claims of an end user in it, which `Forbidden` is otherwise about."""
    return Forbidden.restore(text, Forbidden.status, {}, taken="no")


def expired(waiter: Waiter, *, leaving: bool) -> None:
    """Its deadline has passed. What is still leaving, in fragments, its receiver has not seen the whole of."""
    if leaving:
        error = BudgetSpent(f"{waiter.address} had not been sent all of it when the time budget was spent")
        error.taken = "no"
    else:
        error = BudgetSpent(f"{waiter.address} did not answer within the time budget")
        error.taken = waiter.taken
    waiter.failed(error)
