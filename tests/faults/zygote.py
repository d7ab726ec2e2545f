"""Start ``offbragg`` often and fast: everything is imported once, and each start is a fork.

One JSON object a line comes in: ``{"run": [arguments], "go": FIFO, "out": FILE}`` answers with the
pid of a child that waits for the FIFO to be opened and then runs the command line;
``{"wait": pid}`` answers with how it ended, as `os.waitstatus_to_exitcode` says it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import traceback

import offbragg.beamline.config
import offbragg.cli
import offbragg.followers.follow
import offbragg.followers.publisher
import offbragg.followers.stacker
import offbragg.recovery.verify
import offbragg.status

_PR_SET_PTRACER = 0x59616D61


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _child(asked)
        print(pid, flush=True)


def _child(asked: dict) -> None:
    code = 70
    try:
        # strace is not our parent: let it attach even where Yama forbids that
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        out = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
        for name, value in asked.get("patch", {}).items():  # what else takes ten seconds
            module, _, attribute = name.rpartition(".")
            setattr(sys.modules[module], attribute, value)
        if asked.get("go"):
            os.close(os.open(asked["go"], os.O_RDONLY))
        sys.argv = ["offbragg", *asked["run"]]
        code = 0
        offbragg.cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        code = 71
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main()
