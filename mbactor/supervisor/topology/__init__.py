"""The topology file: a tree declared in YAML, read into specifications.

    topology = load("shop.yaml", environ, overlays=["prod.yaml"])
    root = Supervisor.from_spec(topology.supervisor)

Reading imports the classes and checks everything that can be known without starting anything. `TopologyError`
lists every fault of the file and of those that belong to it, each with file, line, column and path of keys.

`yaml_positions` reads nodes that know where they stand, `files` works in what is included and
`merge` overlays and templates; `children` and `child` make specifications of the result.
"""

from mbactor.supervisor.topology.file import Topology, TopologyError, load
from mbactor.supervisor.topology.json_schema import schema
from mbactor.supervisor.topology.render import as_json, as_yaml

__all__ = ["Topology", "TopologyError", "as_json", "as_yaml", "load", "schema"]
