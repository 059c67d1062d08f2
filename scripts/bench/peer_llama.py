"""The peer for GGUF: xllamacpp's HTTP server, llama.cpp's own, with the sizes of the setup.

Arguments: the setup, the folder xllamacpp is installed in, the port. What the setup does not say
stays at the peer's defaults, continuous batching among it.
"""

import importlib
import signal
import sys

from scripts.bench.gguf import setup_from_arguments


def main() -> None:
    """Serve until ended by a signal."""
    setup = setup_from_arguments()
    sys.path.insert(0, sys.argv[2])
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = setup.model
    params.hostnames = ["127.0.0.1"]
    params.port = int(sys.argv[3])
    params.n_parallel = setup.sequences
    params.n_ctx = setup.context_tokens * setup.sequences
    params.n_batch = params.n_ubatch = setup.batch_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup.threads
    server = xllamacpp.Server(params)
    signal.pause()
    del server


if __name__ == "__main__":
    main()
