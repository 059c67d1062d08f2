"""HTTP: accept loop, raw ASGI handlers for token streams and probes, Quart for the rest."""
