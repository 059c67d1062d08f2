"""The name by which the Opta CLI starts LMX: ``python -m opta_lmx.main`` is ``lmx serve``.

Nothing lives here. The CLI imports it before a start and looks for its name among the command
lines of processes when it stops one, so importing is cheap and the command line stays as it is.
"""
