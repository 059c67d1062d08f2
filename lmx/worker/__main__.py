"""Entry of the worker process: ``python -m lmx.worker FD``, started by the daemon."""

import faulthandler
import socket
import sys

from lmx.worker.loop import exit_now, run_worker

if __name__ == "__main__":
    faulthandler.enable()
    status = 1
    try:
        status = run_worker(socket.socket(fileno=int(sys.argv[1])))
    finally:
        if (failure := sys.exc_info())[0] is not None:
            sys.excepthook(*failure)
        exit_now(status)
