"""Many actors, kept running.

`policy.py` decides (pure), with its tables in `rules.py` and its values in `spec.py` and `state.py`; `runner.py`
carries out what it decides. `supervisor.py` and `dynamic.py` are what users extend and call. `topology.py` reads a
tree from a file, `tree.py` shows one, `control.py` answers about it on a socket (`sockets.py`). `system.py` is the root
of a process, and `line.py` what it keeps of each spawned actor. `node_process.py` is a child in a process of its own,
as its parent has it, and `node_main.py` what runs there.
"""

from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.spec import Backoff, ChildSpec, SupervisorSpec, child
from mbactor.supervisor.state import StartFailed
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.system import ActorSystem
from mbactor.supervisor.tree import TreeNode

__all__ = [
    "ActorSystem",
    "Backoff",
    "ChildSpec",
    "DynamicSupervisor",
    "StartFailed",
    "Supervisor",
    "SupervisorSpec",
    "TreeNode",
    "child",
]
