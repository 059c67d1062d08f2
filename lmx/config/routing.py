"""Settings of names: what clients may call a model, and how others find this machine."""

from msgspec import Struct

from lmx.config.values import ModelArgument


class RoutingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model a name means, before anything else is asked.

    Attributes:
        aliases: Names for models: what clients say to the id of a model, or to several ids, of
            which the first that is loaded answers, and the first that is there if none is.
        default_model: The model of requests that name none, or `None` for the first that is
            loaded. It is loaded at start where `models.load` names nothing.
    """

    aliases: dict[str, ModelArgument | tuple[ModelArgument, ...]] = {}
    default_model: ModelArgument | None = None

    def targets(self, name: str) -> tuple[str, ...]:
        """The ids that an alias stands for, in order of preference; none if it is no alias."""
        meant = self.aliases.get(name, ())
        return (meant,) if isinstance(meant, str) else meant


class DiscoverySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How clients in the LAN find this daemon by themselves.

    Attributes:
        mdns_enabled: Answer multicast DNS for ``_opta-lmx._tcp``; never on a loopback address.
        mdns_service_name: Name of the service; `None` for the name of the device.
    """

    mdns_enabled: bool = True
    mdns_service_name: str | None = None


class PresetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Presets: named sets of request parameters in files.

    Attributes:
        enabled: Whether there are any.
        directory: Where their files are; `None` for ``presets`` in the home directory.
    """

    enabled: bool = True
    directory: str | None = None
