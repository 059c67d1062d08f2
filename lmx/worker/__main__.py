"""Entry of the worker process: ``python -m lmx.worker FD``. Started by the daemon, never by hand."""

import faulthandler
import socket
import sys

from lmx.worker.loop import exit_now, run_worker

if __name__ == "__main__":
    faulthandler.enable()
    exit_now(run_worker(socket.socket(fileno=int(sys.argv[1]))))
