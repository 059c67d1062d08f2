"""A forbidden-imports contract that tolerates modules nobody has written yet.

The architecture names more modules than exist on any one day. A missing one is reported as a
warning, so that a typing error is still seen, and is checked from the day it appears.
"""

from typing import Any

from grimp import ImportGraph
from importlinter import ContractCheck
from importlinter.contracts.forbidden import ForbiddenContract


class ForbiddenWherePresent(ForbiddenContract):
    """`forbidden`, less the LMX modules that the import graph does not hold."""

    type_name = "forbidden_where_present"

    # Set by import-linter from the fields of the parent class, which declares descriptors.
    source_modules: Any
    forbidden_modules: Any

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: FBT001 (theirs)
        """Check what exists and warn about what does not."""
        named = self.source_modules | self.forbidden_modules
        missing = {
            module
            for module in named
            if str(module).startswith("lmx.") and str(module) not in graph.modules
        }
        self.source_modules -= missing
        self.forbidden_modules -= missing
        result = super().check(graph, verbose)
        result.warnings += [f"{module} does not exist yet." for module in sorted(missing, key=str)]
        return result
