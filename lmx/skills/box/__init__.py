"""Contained child processes: what a skill is run in.

`plan` has the words (`BoxPlan`, `Limits`, `BoxResult`, `BoxCapability`), `runner` the `Box` that
runs plans, `capability` finds out what this machine can contain. `child` is what runs in the child
process; it imports the standard library alone, so this file imports nothing at all.
"""
