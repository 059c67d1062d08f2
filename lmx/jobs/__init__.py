"""Processes that do one job and exit: fetch a model from a hub, quantise one. They know no Trio."""
