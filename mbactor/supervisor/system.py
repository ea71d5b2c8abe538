"""`ActorSystem`: the part of an application that runs in this process, from the first actor to the last.

async with ActorSystem() as system:
    counter = await system.spawn(Counter, start=10)
    assert await counter.ask(Counter.add, by=5) == 15
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from mbactor import observe
from mbactor.durations import Duration, seconds
from mbactor.errors import InvalidSpec, MbactorError, Unavailable
from mbactor.kernel import ActorRef, DeadLetters, EventReference, Operation, Reference, Replies, Response
from mbactor.kernel.actor import Actor
from mbactor.kernel.context import acting_for
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.kernel.names import Names
from mbactor.kernel.node import Node
from mbactor.kernel.ref import Answer, At
from mbactor.kernel.settings import Settings
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.operate import by_name
from mbactor.supervisor.operate.applying import Applying, Plan, Progress
from mbactor.supervisor.operate.plan_values import Change, changed
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec, checked_duration, child, kebab_case
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.tree import TreeNode, refresh, tree_of, with_broker, with_spawned
from mbactor.transport import Bus, LocalBus
from mbactor.transport.nats_url import is_broker, without_secrets
from mbactor.transport.reassembly import MAX_BODY

if TYPE_CHECKING:
    from mbactor.supervisor.topology import Topology

A = TypeVar("A", bound=Actor)
S = TypeVar("S", bound=Supervisor)
P = ParamSpec("P")
R = TypeVar("R")


class ActorSystem:
    """Runs actors and supervision trees in this process.

        async with ActorSystem(transport="nats://127.0.0.1:4222") as system:
            await system.spawn(Orders)
            print(await system.ask(Stock.level, sku="a-17"))

    `transport` is "local", "embedded" (a nats-server of its own), the URL of a NATS server ("nats://host:port") or a
    bus; two systems on "local" or "embedded" do not see each other, those on one server and plane do. `tree` is a
    supervisor that is started with the system and whose giving up ends it (`wait`): that of a topology file is
    `mbactor.supervisor.topology.load("shop.yaml", os.environ).supervisor`. With a `locality`, such as
    "eu-west-b-1", its actors are reached at that place and those around it, and its asks go to the nearest replica they
    have learnt of. A method that keeps the event loop to itself for longer than `watchdog` is reported by name (None:
    not). Over a broker, an ask that nobody answers or acknowledges within `ack_window` fails with NotAcknowledged, and
    the death of a process is noticed within it: the same for all systems of an application. Arguments and results of up
    to `max_body` bytes travel to other systems, larger ones are refused (MessageTooLarge). Messages that leave for one
    address within one turn of the loop travel together, unless `coalesce` is False. Leaving the block stops everything,
    the last started first; messages in hand are finished, within each child's shutdown time.
    """

    def __init__(
        self,
        name: str = "main",
        transport: str | Bus = "local",
        plane: str | None = None,
        *,
        tree: SupervisorSpec | None = None,
        serialize_local: bool = False,
        watchdog: Duration | None = "100ms",
        ack_window: Duration = "1s",
        coalesce: bool = True,
        locality: str = "",
        max_body: int = MAX_BODY,
    ) -> None:
        if "/" in name:  # which stands between the ids of a path
            raise InvalidSpec(f"name: {name!r} given, a text without slashes expected")
        self.name = name
        plane = plane or Settings.from_environment().plane
        self.node = Node(
            name,
            _bus_of(transport),
            plane=Settings(plane=plane).plane,
            serialize_local=_switch("serialize_local", serialize_local),
            watchdog=None if watchdog is None else checked_duration("watchdog", watchdog, above_0=True),
            ack_window=checked_duration("ack_window", ack_window, above_0=True),
            coalesce=_switch("coalesce", coalesce),
            locality=locality,
            max_body=max_body,
        )
        self._transport = transport if isinstance(transport, str) else None
        self._apply_lock = asyncio.Lock()
        self._tree_spec = tree
        self._tree: Supervisor | None = None
        self._spawned = DynamicSupervisor()
        self._spawned.bind(self.node, "spawned")
        self.node.supervisor = self.supervisor
        self._names: dict[str, int] = {}
        self._serving = False
        self._ended: asyncio.Future[Exit] | None = None

    # --- life ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect the transport and start the tree. What fails is raised, with nothing left running."""
        self._ended = asyncio.get_running_loop().create_future()
        await self.node.open()
        try:
            self._spawned.bind(self.node, "spawned")
            await self._spawned.start()
            if self._tree_spec is not None:
                self._tree = Supervisor.from_spec(self._tree_spec)
                self._tree.bind(self.node, self.name)
                self._tree.on_exit = self._tree_down
                await self._tree.start()
            if not isinstance(self.node.remote.bus, LocalBus):
                await self.node.remote.flush()  # who hears that it is up may ask it at once, from another process
        except BaseException:
            self._tree = None
            await self.stop()
            raise
        self._serving = self.node.serving = True
        observe.emit("system.serving", system=self.name)

    async def stop(self) -> None:
        """Stop everything, the last started first. Idempotent."""
        if self._ended is None:
            return
        served = self._serving
        self._serving = False
        if served:
            observe.emit("system.stopping", system=self.name)
        if served and not isinstance(self.node.remote.bus, LocalBus):
            await self.node.leave()
        self.node.stopping = True
        await self._spawned.stop(None)
        self._spawned.close(SHUTDOWN)
        if self._tree is not None:
            await self._tree.stop(None)
            self._tree.close(SHUTDOWN)
        await self.node.close()
        self._tree_ended(SHUTDOWN)
        self._ended = None
        if served:
            observe.emit("system.stopped", system=self.name)

    async def wait(self) -> Exit:
        """Returns once the tree has ended by itself (it gave up, or its work is done), or the system was stopped."""
        if self._ended is None:
            raise MbactorError("the system is not running: use it in an `async with` block")
        return await asyncio.shield(self._ended)

    def _tree_down(self, exit: Exit) -> None:
        """It ended by itself and will not come back: whoever waits for one of its actors is told."""
        if self._tree is not None:
            self._tree.close(exit)
        self._tree_ended(exit)

    def _tree_ended(self, exit: Exit) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(exit)

    # --- actors -------------------------------------------------------------------------------------------

    @overload
    async def spawn(self, target: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> ActorRef[A]: ...
    @overload
    async def spawn(self, target: Callable[P, S], /, *args: P.args, **kwargs: P.kwargs) -> S: ...
    @overload
    async def spawn(self, target: ChildSpec, /) -> Any: ...
    async def spawn(self, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Start an actor (or a supervisor) with its constructor's arguments; its ref, once `on_start` has returned.

            counter = await system.spawn(Counter, start=10)
            orders = await system.spawn(child(Orders, id="orders", restart="transient"))

        It has a restart budget of its own; when that is spent it ends as "gave up" and the system goes on.
        StartFailed where it does not start.
        """
        self.node.check_running()
        if isinstance(target, ChildSpec):
            if args or kwargs:
                raise InvalidSpec("spawn: arguments were given beside a child specification; put them into its `args`")
            return await self._spawned.start_child(target)
        spec = child(target, id=self._free_id(target), positional=args, args=kwargs)
        return await self._spawned.start_child(spec)

    def _free_id(self, target: Any) -> str:
        name = kebab_case(getattr(target, "__name__", "actor"))
        while True:
            number = self._names[name] = self._names.get(name, 0) + 1
            id = name if number == 1 else f"{name}-{number}"
            if not self._spawned.knows(id):
                return id

    def ask(self, operation: Operation[Any, P, R], *args: P.args, **kwargs: P.kwargs) -> Answer[R]:
        """Ask any replica of the operation's class: `await system.ask(Counter.add, by=1)`."""
        return self.node.ask(operation, args, kwargs)  # type: ignore[no-any-return]

    def tell(self, operation: Operation[Any, P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Tell any replica of the operation's class. False when it was refused."""
        return self.node.tell(operation, args, kwargs)

    def ask_all(self, operation: Reference[P, R], *args: P.args, **kwargs: P.kwargs) -> Replies[R]:
        """Ask all that serve the operation: `async for reply in system.ask_all(Stock.level, sku="a-17")`.

        As `Actor.ask_all`: a `Reply` of each as it comes, whether a value or an error; nobody is an empty iteration.
        """
        return self.node.ask_all(operation, args, kwargs)

    def publish(self, event: EventReference[P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Tell all that sink the event: `system.publish(Orders.on_placed, order_id="17", total=9.5)`."""
        return self.node.publish(event, args, kwargs)

    def at(self, host: str) -> At:
        """The same operations at another host than their class's own, or at one replica: `system.at(reply.source)`."""
        return At(self.node, host)

    def request(
        self, method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Awaitable[Response]:
        """Call an address whose class is not importable. `body` is bytes, or a value that is sent as JSON."""
        return self.node.request(method, url, body, headers)

    def acting_for(self, claims: Mapping[str, Any], token: str | None = None) -> AbstractContextManager[None]:
        """Ask on behalf of an end user: `with system.acting_for({"roles": ["buyer"]}): await shop.ask(Shop.place)`.

        The claims are taken as verified. They go along with all that the asked actors ask in turn, within this process;
        `requires` of an endpoint is judged against them. A `token` goes along to other processes too, as it is.
        """
        return acting_for(claims, token)

    @property
    def refs(self) -> Names:
        """The names of this node's actors: `system.refs.register("till", till)`, `system.refs["till"].ask(...)`."""
        return self.node.refs

    @property
    def late_replies(self) -> int:
        """Answers that came when nobody waited for them any more, and were dropped."""
        return self.node.late + self.node.remote.late

    @property
    def abandoned(self) -> int:
        """Methods and hooks that did not end when they were cancelled, and were left behind."""
        return self.node.abandoned

    @property
    def unready(self) -> str | None:
        """Why this system does not do its work now, in a few words; None while it does.

        It is being started or stopped, the broker cannot be reached, or nothing comes back through it. The gateway
        tells it at `GET /_health`.
        """
        return self.node.unready()

    # --- the tree while it runs -----------------------------------------------------------------------------

    def supervisor(self, name: str) -> Supervisor:
        """The running supervisor with this id, or path of ids: where children are added to one of a topology file.

            sessions = system.supervisor("sessions")
            ref = await sessions.start_child(child(Session, id="session-17"))

        It is the present incarnation: ask for it anew rather than keep it. NoSuchChild, Ambiguous (give more of the
        path), Unavailable where it does not run.
        """
        return by_name.supervisor(name, self.roots())

    def roots(self) -> list[Supervisor]:
        """The supervisors at the top: of the tree, and of what was spawned beside it."""
        return [one for one in (self._tree, self._spawned) if one is not None and one.phase != "idle"]

    def plan(self, wanted: SupervisorSpec | Topology) -> Plan:
        """What `apply` would do to make the running tree the one that is wanted; nothing is done.

            for step in system.plan(topology.load("shop.yaml", os.environ)).steps:
                print(step.act, step.path, *step.changes)

        Children that were added at run time, and those of dynamic supervisors, stay as they are. Unavailable where no
        tree runs.
        """
        return self._planned(wanted)[1]

    async def apply(self, wanted: SupervisorSpec | Topology, *, progress: Progress | None = None) -> Plan:
        """Make the running tree the one that is wanted, step by step; the plan that was carried out.

            plan = await system.apply(topology.load("shop.yaml", os.environ))

        What no change concerns goes on, with its mailbox; restarts that were charged stay charged; what an operator
        stopped stays stopped. ApplyFailed at the first step that fails: nothing is taken back, and another apply goes
        on from there. Cancelled, it finishes the step that was begun. One apply runs at a time.
        """
        async with self._apply_lock:
            applying, plan = self._planned(wanted)
            if progress is not None:
                progress.planned(plan)
            try:
                await applying.carry_out(progress)
            finally:
                self._tree_spec = applying.spec
            return plan

    def _planned(self, wanted: SupervisorSpec | Topology) -> tuple[Applying, Plan]:
        if self._tree is None:
            raise Unavailable("no tree runs that could be compared with another")
        later: list[Change] = []
        if not isinstance(wanted, SupervisorSpec):
            later += changed("name", self.name, wanted.name)
            if self._transport is not None:
                later += changed("transport", without_secrets(self._transport), without_secrets(wanted.transport))
            later += changed("locality", self.node.locality or None, wanted.locality or None)
            later += changed("ack_window", self.node.ack_window, wanted.ack_window)
            later += changed("max_body", self.node.max_body, wanted.max_body)
            later += changed("coalesce", self.node.coalesce, wanted.coalesce)
            wanted = wanted.supervisor
        applying = Applying(self._tree, wanted)
        return applying, Plan(self.name, applying.steps, tuple(later))

    # --- what is seen ---------------------------------------------------------------------------------------

    @property
    def dead_letters(self) -> DeadLetters:
        """Messages that could not be delivered."""
        return self.node.dead_letters

    def tree(self) -> TreeNode:
        """The running tree, at this moment; what was spawned beside it stands under its last child, `spawned`.

        It works at any time: while the system starts, restarts what failed, stops, or does not run at all.
        """
        if self._tree_spec is None:
            found = tree_of(self._spawned)
        elif self._tree is not None:
            found = with_spawned(tree_of(self._tree), self._spawned)
        else:
            state = "stopped" if self._ended is None else "starting"
            found = TreeNode(self.name, "supervisor", state, strategy=self._tree_spec.strategy)
        server = getattr(self.node.remote.bus, "server", None)
        return found if server is None else with_broker(found, server.view())

    async def whole_tree(self, within: Duration = "500ms") -> TreeNode:
        """As `tree`, with what runs in processes of their own asked for anew (`tree` has what they told last).

        One that has not answered after `within` is shown as before, and for how long it has been `silent`.
        """
        for root in self.roots():
            await refresh(root, seconds(within))
        return self.tree()


def _switch(name: str, given: bool) -> bool:
    if type(given) is not bool:  # a text that says no would be true
        raise InvalidSpec(f"{name}: {given!r} given, True or False expected")
    return given


def _bus_of(transport: str | Bus) -> Bus:
    if not isinstance(transport, str | None):  # None is what a variable that is not set gives
        return transport
    if transport == "local":
        return LocalBus()
    if transport == "embedded":
        from mbactor.transport.embedded import EmbeddedBus

        return EmbeddedBus()
    if transport and is_broker(transport):
        from mbactor.transport.nats import NatsBus  # which imports its driver

        return NatsBus(transport)
    raise InvalidSpec(f"transport: {transport!r} given, 'local', 'embedded' or nats://host:port expected")
