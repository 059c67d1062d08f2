"""Settings of the property tests: no deadline, because the machine is shared."""

from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")
