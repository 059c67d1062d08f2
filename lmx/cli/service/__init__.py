"""LMX as a service of the system: launchd on macOS, systemd on Linux.

`job` says what is to run, `launchd` and `systemd` spell that as files and drive the system's
programs, `installer` puts a file in place whole or not at all. The daemon knows nothing of it.
"""
