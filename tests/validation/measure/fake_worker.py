"""A worker whose device only pretends: python fake_worker.py BEHAVIOUR.json LOG.

BEHAVIOUR maps a kernel to what its cases do ("ok" when it is not there), LOG gets the id of every case that is asked for.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from attncast.validation.measure.device import Timing
from attncast.validation.measure.sensors import Reading
from attncast.validation.measure.worker import serve


class FakeDevice:
    """An H100 on which every call takes a tenth of a millisecond, more or less."""

    name = "NVIDIA H100 80GB HBM3"
    torch_device = "cpu"

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def time(self, call, *, warm, budget_s):
        del call, warm, budget_s
        readings = {"before": Reading(1.98e9, 40.0, 120.0), "during": Reading(1.755e9, 45.0, 640.0)}
        return Timing((0.9e-4, 1.0e-4, 1.1e-4, 1.2e-4, 1.3e-4), "pretended", readings, 7)

    def synchronize(self):
        if self.broken:
            raise RuntimeError("an illegal memory access was encountered")

    def free(self):
        pass


def answer(case, device, suite, sample_seconds, *, prepare_only=False):
    del sample_seconds
    behaviour = json.loads(Path(sys.argv[1]).read_text())
    if prepare_only:
        return {"prepared": True}
    with Path(sys.argv[2]).open("a") as log:
        log.write(case.id + "\n")
    time.sleep(behaviour.get("pause_s", 0.0))
    what = behaviour.get(case.kernel, "ok")
    if what == "crash":
        print("Xid 31: page fault", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(1000)
    if what == "lost":
        device.broken = True
        return {"problem": "failed", "reason": "RuntimeError: an illegal memory access was encountered"}
    if what == "wrong":
        return {"problem": "wrong result", "reason": "WrongResult: off by 1"}
    from types import SimpleNamespace

    from attncast.validation.measure import worker

    worker.software = lambda kernel: f"{kernel}: pretended 1.0"
    tiles = SimpleNamespace(q_tile="", kv_tile="", config=case.config)
    return worker._result(case, tiles, device.time(None, warm=case.warm, budget_s=0.0), device.name, suite, 0.0)


if __name__ == "__main__":
    sys.exit(serve(FakeDevice, sys.stdin, sys.stdout, answer))
