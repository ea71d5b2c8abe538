"""Many actors, kept running.

`policy.py` decides (pure), with its tables in `rules.py` and its values in `spec.py` and `state.py`; `runner.py`
carries out what it decides. `supervisor.py`, `dynamic.py` and `partition.py` are what users extend and call.
`system.py` is the root of a process, and `line.py` what it keeps of each spawned actor. `tree.py` shows a tree.
`topology/` reads one from a file, `operate/` compares it with the one that runs and changes that, by what
`reconfigure.py` decides for one supervisor. `node/` is a child in a process of its own.
"""

from mbactor.supervisor.children import Budget
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.operate.applying import ApplyFailed, Plan
from mbactor.supervisor.operate.plan import Step
from mbactor.supervisor.partition import PartitionSupervisor
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
