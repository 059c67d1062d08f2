"""The SDK's log lines among ours: it writes to loggers of the standard library.

Nobody reads those in the daemon, and their last resort would put bare text into its log.
"""

import logging

import structlog

# What the SDK is made of and logs to loggers of its own.
SOURCES = ("mcp", "sse_starlette", "httpx2", "httpcore2")
# It quotes what peers sent.
MESSAGE_CHARACTERS = 300

log = structlog.get_logger("lmx.mcp")


class ForwardingHandler(logging.Handler):
    """Hands records on, without tracebacks: what a peer sends must not fill the log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record on."""
        reason = repr(record.exc_info[1])[:MESSAGE_CHARACTERS] if record.exc_info else None
        message = record.getMessage()[:MESSAGE_CHARACTERS]
        log.info(
            "mcp", source=record.name, said=message, level_of_source=record.levelname, reason=reason
        )


def forward_logs() -> None:
    """Forward warnings and errors from now on. May be called again."""
    for name in SOURCES:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        if not any(isinstance(one, ForwardingHandler) for one in logger.handlers):
            logger.addHandler(ForwardingHandler())
