"""LMX as a server and as a client of MCP, the Model Context Protocol, on the official SDK.

The SDK takes half a second and 35 MB to import, so nothing here does so when it is itself imported:
the modules that need it come by these two functions, on a thread, when a client of MCP calls or
when a server is configured.
"""

from typing import TYPE_CHECKING

from lmx.skills.mcp.logs import forward_logs

if TYPE_CHECKING:
    from lmx.skills.mcp.remote import Attend
    from lmx.skills.mcp.server import SkillServer


def load_server() -> "type[SkillServer]":
    """Import what serves skills to clients of MCP. Blocks for up to seconds."""
    from lmx.skills.mcp.server import SkillServer

    forward_logs()
    return SkillServer


def load_client() -> "Attend":
    """Import what connects to servers of MCP. Blocks for up to seconds."""
    from lmx.skills.mcp.client import attend

    forward_logs()
    return attend
