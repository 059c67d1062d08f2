"""What the routes work with: one value that the composition root fills and every route reads."""

from typing import NamedTuple

from lmx.config import Settings
from lmx.daemon.admin import ModelAdmin
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.hardware import Hardware
from lmx.daemon.jobs.arrivals import Arrivals
from lmx.daemon.jobs.quantizer import Quantizer
from lmx.daemon.live import LiveSettings
from lmx.daemon.loader import Loader
from lmx.daemon.log_tail import LogTail
from lmx.daemon.presets import Presets
from lmx.daemon.telemetry import Telemetry
from lmx.daemon.vectors import VectorDesk
from lmx.skills.containment import Containment
from lmx.skills.desk import SkillDesk
from lmx.skills.mcp.clients import McpClients
from lmx.skills.mcp.host import McpHost
from lmx.web.events import EventHub
from lmx.web.resume import AnswerKeeper


class Services(NamedTuple):
    """The daemon as the web layer sees it.

    Attributes:
        settings: The settings in force; the same object as `live.current`.
        loader: Knows the models.
        dispatch: Opens replies.
        telemetry: Counts and tells.
        admin: Manages the models.
        arrivals: Loads models that may have to be downloaded first.
        quantizer: Writes models again with smaller weights.
        events: Tells clients what happens.
        keeper: Keeps answers that survive their connection.
        live: Reads the settings again.
        hardware: The machine.
        vectors: Answers requests for numbers.
        log_tail: Has the last log lines.
        skills: Runs skills.
        box: Contains their runs.
        presets: Named sets of request parameters.
        mcp: Serves them to clients of MCP.
        mcp_clients: Has the tools of other servers of MCP.
    """

    settings: Settings
    loader: Loader
    dispatch: Dispatch
    telemetry: Telemetry
    admin: ModelAdmin
    arrivals: Arrivals
    quantizer: Quantizer
    events: EventHub
    keeper: AnswerKeeper
    live: LiveSettings
    hardware: Hardware
    vectors: VectorDesk
    log_tail: LogTail
    skills: SkillDesk
    box: Containment
    presets: Presets
    mcp: McpHost
    mcp_clients: McpClients
