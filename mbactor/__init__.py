"""mbactor: an actor-model runtime for Python.

The layers, lowest first; each knows only what stands above it in this list:

- leaves: `errors`, `observe`, `clock`, `durations`, `seams`, `expressions`, `patterns`, `validation`, `secret`,
  `offload`, `threads`, `processes`
- `mailbox`: bounded queues with lanes; `transport`: bytes between actors
- `kernel`: one actor, running
- `supervisor`: many actors, kept running; the topology file; `ActorSystem`
- `foreman`: durable workflows through the same actors
- `services`: actors that ship with the library; `testing`, `cli`: for users and their tests

This door loads a name when it is first used, so that `import mbactor` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbactor.errors import (
        ActorCrashed,
        ActorRestarting,
        ActorStopped,
        AlreadyStarted,
        BadRequest,
        BudgetSpent,
        Deadlock,
        DeclarationError,
        Forbidden,
        Ignore,
        InvalidSpec,
        MailboxFull,
        MbactorError,
        MessageTooLarge,
        NameTaken,
        NoSuchActor,
        NoSuchChild,
        NoSuchName,
        NotAcknowledged,
        ProcessDied,
        Unauthenticated,
        Unavailable,
    )
    from mbactor.kernel import (
        Actor,
        ActorRef,
        Answer,
        DeadLetter,
        Exit,
        Replies,
        Reply,
        Response,
        Timer,
        config,
        endpoint,
        event,
        sink,
    )
    from mbactor.mailbox import (
        Mailbox,
        MailboxStatistics,
    )
    from mbactor.supervisor import (
        ActorSystem,
        Backoff,
        DynamicSupervisor,
        PartitionSupervisor,
        StartFailed,
        Supervisor,
        child,
    )

__all__ = [
    "Actor",
    "ActorCrashed",
    "ActorRef",
    "ActorRestarting",
    "ActorStopped",
    "ActorSystem",
    "AlreadyStarted",
    "Answer",
    "Backoff",
    "BadRequest",
    "BudgetSpent",
    "DeadLetter",
    "Deadlock",
    "DeclarationError",
    "DynamicSupervisor",
    "Exit",
    "Forbidden",
    "Ignore",
    "InvalidSpec",
    "Mailbox",
    "MailboxFull",
    "MailboxStatistics",
    "MbactorError",
    "MessageTooLarge",
    "NameTaken",
    "NoSuchActor",
    "NoSuchChild",
    "NoSuchName",
    "NotAcknowledged",
    "PartitionSupervisor",
    "ProcessDied",
    "Replies",
    "Reply",
    "Response",
    "StartFailed",
    "Supervisor",
    "Timer",
    "Unauthenticated",
    "Unavailable",
    "child",
    "config",
    "endpoint",
    "event",
    "sink",
]

_HOME = {
    "Actor": "mbactor.kernel",
    "ActorCrashed": "mbactor.errors",
    "ActorRef": "mbactor.kernel",
    "ActorRestarting": "mbactor.errors",
    "ActorStopped": "mbactor.errors",
    "ActorSystem": "mbactor.supervisor",
    "AlreadyStarted": "mbactor.errors",
    "Answer": "mbactor.kernel",
    "Backoff": "mbactor.supervisor",
    "BadRequest": "mbactor.errors",
    "BudgetSpent": "mbactor.errors",
    "DeadLetter": "mbactor.kernel",
    "Deadlock": "mbactor.errors",
    "DeclarationError": "mbactor.errors",
    "DynamicSupervisor": "mbactor.supervisor",
    "Exit": "mbactor.kernel",
    "Forbidden": "mbactor.errors",
    "Ignore": "mbactor.errors",
    "InvalidSpec": "mbactor.errors",
    "Mailbox": "mbactor.mailbox",
    "MailboxFull": "mbactor.errors",
    "MailboxStatistics": "mbactor.mailbox",
    "MbactorError": "mbactor.errors",
    "MessageTooLarge": "mbactor.errors",
    "NameTaken": "mbactor.errors",
    "NoSuchActor": "mbactor.errors",
    "NoSuchChild": "mbactor.errors",
    "NoSuchName": "mbactor.errors",
    "NotAcknowledged": "mbactor.errors",
    "PartitionSupervisor": "mbactor.supervisor",
    "ProcessDied": "mbactor.errors",
    "Replies": "mbactor.kernel",
    "Reply": "mbactor.kernel",
    "Response": "mbactor.kernel",
    "StartFailed": "mbactor.supervisor",
    "Supervisor": "mbactor.supervisor",
    "Timer": "mbactor.kernel",
    "Unauthenticated": "mbactor.errors",
    "Unavailable": "mbactor.errors",
    "child": "mbactor.supervisor",
    "config": "mbactor.kernel",
    "endpoint": "mbactor.kernel",
    "event": "mbactor.kernel",
    "sink": "mbactor.kernel",
}

__version__ = "0.1.0"


if not TYPE_CHECKING:  # a checker would take any name to be there

    def __getattr__(name: str) -> Any:
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module 'mbactor' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(home), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted([*globals(), *_HOME])
