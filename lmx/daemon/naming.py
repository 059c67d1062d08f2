"""What clients' names for models stand for, before models are looked at. Pure.

The settings give names to models (``routing.aliases``) and say which one answers requests that name
none. The names of roles that clients know without any setting mean that model, too, unless they
are set.
"""

from collections.abc import Callable

from lmx.config.routing import RoutingSettings

# What clients call models by what they are good at.
ROLES = frozenset({"chat", "code", "reasoning"})
# A name that leaves the choice to the server; ``current`` means what is loaded, whatever it is.
UNNAMED = frozenset({"", "auto"})
ANY = "auto"


class Names:
    """The aliases in force.

    Args:
        routing: The settings in force.
    """

    def __init__(self, routing: Callable[[], RoutingSettings] = RoutingSettings) -> None:
        self._routing = routing

    def prefers_loaded(self, name: str) -> bool:
        """Whether of several candidates one that answers now goes before one that has to load."""
        return len(self._routing().targets(name)) > 1

    def candidates(self, name: str) -> tuple[str, ...]:
        """What a name may mean, in order of preference; the name itself if it is no alias.

        Args:
            name: As the client spelled it.
        """
        routing = self._routing()
        targets = routing.targets(name)
        if targets:
            return targets
        default = routing.default_model
        if name in UNNAMED:
            return (name,) if default is None else (default, name)
        if name in ROLES:
            return (name, ANY) if default is None else (name, default, ANY)
        return (name,)
