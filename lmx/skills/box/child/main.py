"""The first process of a run: reads the plan, makes its space, forks, and each fork has its role.

    launcher ── watching process ── the skill
              (the same process where there are no namespaces)

The launcher enters the namespaces; its child is their first process, watches, and reports; the
child of that gives everything up and becomes the skill. When the daemon's end of the control socket
closes, the watching process kills all there is.
"""

import json
import os
import sys

from lmx.skills.box.child import kernel, namespaces, payload, restrict
from lmx.skills.box.child.watch import Watch
from lmx.skills.box.child.wire import EXIT_FAILED, ChildPlan, ChildReport


def main() -> None:
    """Run what the control socket says.

    The arguments are the descriptors of that socket and of the pipe for the result.
    """
    control, result = map(int, sys.argv[1:])
    os.set_inheritable(control, False)  # noqa: FBT003 - by position alone
    plan: ChildPlan = json.loads(_read_line(control))
    os.set_inheritable(result, False)  # noqa: FBT003
    try:
        _become_skill(plan, control, result)
        if plan["argv"]:
            payload.run_program(plan)
    except OSError as error:
        reason = error.strerror or str(error)
        what = f"{error.filename}: {reason}" if error.filename else reason
        _send(control, {"ending": "failed", "error": what})
        os._exit(EXIT_FAILED)
    os.close(control)
    if plan["entrypoint"] is None:
        os._exit(0)
    payload.call_function(plan, result)
    os._exit(0)


def _become_skill(plan: ChildPlan, control: int, result: int) -> None:
    """Make the space and fork; returns in the process that is to be the skill, and in no other."""
    owner = restrict.choose_owner(plan)
    has_space = plan["mechanisms"]["namespaces"]
    if has_space:
        owner = namespaces.enter(plan, owner)
        first = os.fork()
        if first:
            os.waitpid(first, 0)
            os._exit(0)
        namespaces.seal(plan, writable=owner is not None or os.geteuid() != 0)
    elif owner is not None:
        os.chown(plan["temp"], *owner)
    if sys.platform == "linux":
        kernel.set_dumpable(0)
        kernel.adopt_orphans()
    watch = Watch(control, plan["limits"], owns_pids=has_space)
    skill = os.fork()
    if skill:
        os.closerange(0, 3)
        os.close(result)
        _send(control, watch.run(skill))
        os._exit(0)
    watch.leave()
    os.setsid()
    if sys.platform == "linux":
        kernel.set_dumpable(1)
    restrict.be_humble()
    os.chdir(plan["temp"])
    if owner is not None:
        restrict.become(owner)
    own_count = restrict.has_own_count(owner, namespaced=has_space)
    restrict.limit(plan["limits"], counts_processes=own_count)
    restrict.contain(plan)


def _read_line(descriptor: int) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        received = os.read(descriptor, 1 << 20)
        if not received:
            os._exit(0)  # the daemon is gone already
        data += received
    return bytes(data)


def _send(descriptor: int, report: ChildReport) -> None:
    try:
        os.write(descriptor, json.dumps(report).encode() + b"\n")
    except OSError:
        pass  # nobody listens any more
