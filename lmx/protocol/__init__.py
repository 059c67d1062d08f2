"""What daemon and worker say to each other. Pure: no sockets, no clocks, no engine."""
