"""A SLURM of one node on this machine, for as long as a block lasts; root may start it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = Path("/etc/slurm/slurm.conf")
TEXT = """\
ClusterName=tried
SlurmctldHost={host}
AuthType=auth/munge
SlurmUser=root
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/d
SlurmctldPidFile={state}/ctld.pid
SlurmdPidFile={state}/d.pid
SlurmctldLogFile={state}/ctld.log
SlurmdLogFile={state}/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
KillWait=5
ReturnToService=2
NodeName={host} CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""


def install() -> None:
    """SLURM and munge from Debian's packages, where they are missing."""
    if not (shutil.which("slurmctld") and shutil.which("munged")):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        packages = ["slurm-wlm", "munge"]
        options = ["-y", "-qq", "--no-install-recommends"]
        subprocess.run(["apt-get", "install", *options, *packages], check=True)


@contextmanager
def running(state: Path, *, cpus: int = 2) -> Iterator[None]:
    """SLURM runs, with partitions main and gpu; its configuration is the one before afterwards."""
    before = CONFIG.read_text() if CONFIG.exists() else None
    for folder in ("ctld", "d"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    CONFIG.write_text(TEXT.format(host=socket.gethostname(), state=state, cpus=cpus))
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    daemons = [["runuser", "-u", "munge", "--", "munged", "--foreground"]]
    daemons += [["slurmctld", "-D"], ["slurmd", "-D"]]
    with (state / "daemons.log").open("w") as log:
        started = []
        try:
            for words in daemons:
                started.append(subprocess.Popen(words, stdout=log, stderr=log))
                time.sleep(2)
            _wait_for_node()
            yield
        finally:
            subprocess.run(["scancel", "--user", "root"], check=False)
            for daemon in reversed(started):
                daemon.terminate()
                daemon.wait(60)
            CONFIG.unlink() if before is None else CONFIG.write_text(before)


def _wait_for_node() -> None:
    for _ in range(60):
        said = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        if said.stdout.split()[:1] in (["idle"], ["mixed"]):
            return
        time.sleep(1)
    raise RuntimeError(f"SLURM has no node that works: {said.stdout} {said.stderr}")


def jobs() -> list[str]:
    """The jobs that are running."""
    words = ["squeue", "-h", "-t", "R", "-o", "%i"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def may_run() -> bool:
    """Whether this user may install and start it."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None
