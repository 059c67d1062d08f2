"""What every test process needs before it imports an engine."""

import os

# As the daemon starts its workers: threads that spin while they wait collapse on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
