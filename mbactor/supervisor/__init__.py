"""Many actors, kept running.

`policy.py` decides (pure), with its tables in `rules.py` and its values in `spec.py` and `state.py`; `runner.py`
carries out what it decides. `supervisor.py`, `dynamic.py` and `partition.py` are what users extend and call.
`topology.py` reads a tree from a file, `tree.py` shows one. `plan.py` compares two (pure), `applying.py` makes the
running one the other, by what `reconfigure.py` decides for one supervisor. `control.py` answers on a socket
(`sockets.py`), `operating.py` says what. `system.py` is the root of a process, and `line.py` what it keeps of each
spawned actor. `node_process.py` is a child in a process of its own, as its parent has it, and `node_main.py` what runs
there.
"""

from mbactor.supervisor.applying import ApplyFailed, Plan
from mbactor.supervisor.children import Budget
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.partition import PartitionSupervisor
from mbactor.supervisor.plan import Step
from mbactor.supervisor.spec import Backoff, ChildSpec, SupervisorSpec, child
from mbactor.supervisor.state import StartFailed
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.system import ActorSystem
from mbactor.supervisor.tree import TreeNode

__all__ = [
    "ActorSystem",
    "ApplyFailed",
    "Backoff",
    "Budget",
    "ChildSpec",
    "DynamicSupervisor",
    "PartitionSupervisor",
    "Plan",
    "StartFailed",
    "Step",
    "Supervisor",
    "SupervisorSpec",
    "TreeNode",
    "child",
]
