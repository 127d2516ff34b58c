"""What Ray runs to start a worker of a run's own cluster; it imports nothing that takes time.

Ray's own script imports all of Ray, only to become a Python that imports it again: a second of
processor time for each worker. It is left what it exists for, runtime environments.
"""

import os
import sys


def main() -> None:
    """Become the worker that the arguments name."""
    arguments = [word for word in sys.argv[1:] if not word.startswith("--language=")]
    if any(word.startswith("--serialized-runtime-env-context") for word in arguments):
        worker = next(word for word in arguments if word.endswith("default_worker.py"))
        rays_own = os.path.join(os.path.dirname(worker), "setup_worker.py")
        arguments = [rays_own, *sys.argv[1:]]
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()
