"""What every test process needs before it imports an engine or starts a program."""

import os
import signal

# As the daemon starts its workers: threads that spin while they wait collapse on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A run that a shell starts in the background ignores Ctrl-C, and so would the programs it tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
