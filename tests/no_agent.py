"""What a quick Ray runs in place of a node's two agents, of which tests want nothing.

They are for dashboards, metrics and runtime environments; each imports as much as a worker. A
raylet waits for their ports, and ends when one of them does.
"""

from __future__ import annotations

import os
import sys
import time

# That nobody listens, as an agent of Ray's smallest installation says it; the raylet checks one.
_PORTS = {
    "dashboard": {
        "metrics_agent_port": -1,
        "metrics_export_port": -1,
        "dashboard_agent_listen_port": -1,
    },
    "runtime_env": {"runtime_env_agent_port": 1},
}


def main(agent: str, *options: str) -> None:
    """Write the ports where the raylet looks for them, and end with it."""
    given = dict(option.split("=", 1) for option in options if "=" in option)
    for name, port in _PORTS[agent].items():
        path = os.path.join(given["--session-dir"], f"{name}_{given['--node-id']}")
        with open(f"{path}_", "w") as file:
            file.write(str(port))
        os.rename(f"{path}_", path)
    raylet = int(os.environ["RAY_RAYLET_PID"])
    while os.getppid() == raylet:
        time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
