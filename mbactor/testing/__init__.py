"""For tests of mbactor and of what is built with it.

`plugin.py` has pytest's fixtures `mbactor`, `mbactor_probe`, `mbactor_recorder`, `mbactor_nats`, `mbactor_postgres` and
`mbactor_loop` (`short.py` gives them short names); `stage.py` runs a test on its loop, `loop.py` is that loop, in which
time is virtual, and `waiting.py` says where tasks wait. `probe.py` stands in for actors, `recorder.py` keeps events and
spans, `faults.py` strikes at seams, `nats.py` and `postgres.py` run servers. `buses.py`, `mailboxes.py` and `stores.py`
say what every bus, every mailbox and every database of the Foreman must do, `laws.py` what every reducer must;
`strategies.py` makes states, graphs and trees of children for Hypothesis.

This door loads a name when it is first used: pytest imports the package in every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbactor.testing import faults
    from mbactor.testing.buses import check_bus
    from mbactor.testing.laws import reducer_laws
    from mbactor.testing.loop import OutOfPatience, Standstill, VirtualTimeLoop
    from mbactor.testing.mailboxes import check_mailbox
    from mbactor.testing.probe import Probe, Probes, Received
    from mbactor.testing.recorder import Event, Recorder
    from mbactor.testing.stores import check_store
    from mbactor.testing.strategies import child_trees, graphs, json_values, states

__all__ = [
    "Event",
    "OutOfPatience",
    "Probe",
    "Probes",
    "Received",
    "Recorder",
    "Standstill",
    "VirtualTimeLoop",
    "check_bus",
    "check_mailbox",
    "check_store",
    "child_trees",
    "faults",
    "graphs",
    "json_values",
    "reducer_laws",
    "states",
]

_HOME = {
    "Event": "recorder",
    "OutOfPatience": "loop",
    "Probe": "probe",
    "Probes": "probe",
    "Received": "probe",
    "Recorder": "recorder",
    "Standstill": "loop",
    "VirtualTimeLoop": "loop",
    "check_bus": "buses",
    "check_mailbox": "mailboxes",
    "check_store": "stores",
    "child_trees": "strategies",
    "graphs": "strategies",
    "json_values": "strategies",
    "reducer_laws": "laws",
    "states": "strategies",
}

if not TYPE_CHECKING:  # a checker would take any name to be there

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name == "faults":
            return import_module("mbactor.testing.faults")
        if name not in _HOME:
            raise AttributeError(f"module 'mbactor.testing' has no attribute {name!r}")
        value = getattr(import_module(f"mbactor.testing.{_HOME[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted([*globals(), *__all__])
