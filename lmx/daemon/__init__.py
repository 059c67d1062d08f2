"""The daemon's own machinery on Trio: workers, loading, dispatch, telemetry. No HTTP, no engine."""
