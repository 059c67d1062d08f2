"""LMX's own skills: a manifest each, and the functions they run in a contained process.

The modules import nothing of LMX, for in that process there is no LMX.
"""
