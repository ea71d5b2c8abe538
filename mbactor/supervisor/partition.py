"""`PartitionSupervisor`: n children alike, of which a key chooses one.

    carts = await system.spawn(PartitionSupervisor, child(Cart), partitions=8)
    await carts.partition("customer-17").ask(Cart.add, sku="tea")

One actor that serves everybody is a queue; many of them, each with the keys that fall to it, are not. The same key
chooses the same partition in every process, on every machine and under every Python, for as long as `partitions` stays
the same. A partition that is restarted keeps its keys, and messages for it wait meanwhile as for any actor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NoReturn

from mbactor.durations import Duration
from mbactor.errors import BadRequest, InvalidSpec, Unavailable
from mbactor.supervisor.spec import MOST_REPLICAS, AutoShutdown, ChildSpec, Strategy, SupervisorSpec, check_spec
from mbactor.supervisor.supervisor import Supervisor

Key = str | bytes | int


class PartitionSupervisor(Supervisor):
    """Runs `partitions` children of one specification: `cart` becomes `cart-1`, `cart-2`, ...

        carts = await system.spawn(PartitionSupervisor, child(Cart), partitions=8)
        await carts.partition("customer-17").ask(Cart.add, "pen")

    Users pass the specification, or extend the class and set `children` (a list of that one) and `partitions`. It is
    a supervisor like any other but that its children are fixed: none can be added or forgotten at run time.
    """

    partitions: int = 0

    def __init__(
        self,
        child: ChildSpec | None = None,
        *,
        partitions: int | None = None,
        strategy: Strategy | None = None,
        max_restarts: int | None = None,
        within: Duration | None = None,
        auto_shutdown: AutoShutdown | None = None,
    ) -> None:
        super().__init__(
            strategy=strategy,
            max_restarts=max_restarts,
            within=within,
            auto_shutdown=auto_shutdown,
            children=None if child is None else [child],
        )
        if partitions is not None:
            self.partitions = partitions

    def partition(self, key: Key) -> Any:
        """The ref of the child that has this key: a text, bytes, or a whole number. Costs about a microsecond.

        A number and its digits as a text choose the same, so a key may travel as either.
        """
        runner = self._bound()
        ref = runner.ref(self.partition_id(key))
        if ref is None:
            raise Unavailable(f"supervisor {runner.path} is not running")
        return ref

    def partition_id(self, key: Key) -> str:
        """The id of the child that has this key."""
        return _id(self._template(), partition_of(key, self.partitions))

    def spec(self) -> SupervisorSpec:
        name = type(self).__qualname__
        template = self._template()
        try:
            if template.replicas != 1:
                raise InvalidSpec(f"child {template.id!r}: replicas: {template.replicas} given, 1 expected here")
            count: Any = self.partitions
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_REPLICAS:
                text = f"partitions: {count!r} given, a whole number from 1 to {MOST_REPLICAS} expected"
                raise InvalidSpec(text)
            alike: Sequence[ChildSpec] = [replace(template, id=_id(template, place)) for place in range(count)]
            return SupervisorSpec(self.strategy, self.max_restarts, self.within, self.auto_shutdown, alike)
        except InvalidSpec as error:
            raise InvalidSpec(f"{name}: {error}") from error

    async def start_child(self, spec: ChildSpec) -> NoReturn:
        """Refused with InvalidSpec: the number of partitions is fixed."""
        check_spec(spec)
        raise InvalidSpec(f"child {spec.id!r} given to {self.path}, whose {self.partitions} partitions are fixed")

    async def delete_child(self, child: Any) -> NoReturn:
        """Refused with InvalidSpec: the keys of a forgotten partition would have nobody."""
        id = self._id_of(child)
        raise InvalidSpec(f"child {id!r} of {self.path} is one of {self.partitions} partitions, which are fixed")

    def _template(self) -> ChildSpec:
        if len(self.children) != 1:
            raise InvalidSpec(
                f"{type(self).__qualname__}: children: {len(self.children)} given, 1 expected: "
                "all partitions are made of that one"
            )
        check_spec(self.children[0])
        return self.children[0]


def partition_of(key: Key, partitions: int) -> int:
    """Which of so many partitions, from 0, has this key."""
    if isinstance(key, str):
        data = key.encode("utf-8", "surrogatepass")
    elif isinstance(key, int) and not isinstance(key, bool):
        data = f"{int(key)}".encode()
    elif isinstance(key, bytes):
        data = key
    else:
        raise BadRequest(f"key: {key!r} given, a text, bytes or a whole number expected")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") % partitions


def _id(template: ChildSpec, place: int) -> str:
    return f"{template.id}-{place + 1}"
