"""The child process that owns one model. No Trio, no HTTP; two threads, see `lmx.worker.loop`."""
