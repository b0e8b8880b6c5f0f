"""A SLURM of two nodes on this machine, for tests: munge, a database with accounting, a controller and two nodes.

It runs as root from Debian's packages, in a folder of its own, on 127.0.0.1, without systemd and cgroups, beside any
other. ``python -m tests.cluster.private_slurm install`` brings the packages where it can, ``... FOLDER`` starts one by
hand and stops it at Ctrl-C or SIGTERM.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "mariadbd": "mariadb-server",
}
"""The programs that are needed, and Debian's packages that bring them."""

PATIENCE = 120.0
"""Seconds for what a daemon does in a moment."""

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class CannotStart(Exception):  # noqa: N818  (it names a state)
    """A daemon of SLURM's does not start on this machine; the message says which, and what it said last."""


def why_not() -> str | None:
    """Why no SLURM can be started here; None where it can."""
    if os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a private SLURM runs as root alone"
    missing = sorted({package for program, package in PACKAGES.items() if shutil.which(program, path=_PATH) is None})
    return f"apt-get install {' '.join(missing)} brings what is missing" if missing else None


def install() -> None:
    """Installs what is missing where this is root on Debian, and says what is missing still: there, tests skip."""
    reason = why_not()
    if reason and reason.startswith("apt-get") and shutil.which("apt-get"):
        patience = ["-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30"]
        variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        packages = ["-y", "--no-install-recommends", *sorted(set(PACKAGES.values()))]
        with contextlib.suppress(subprocess.CalledProcessError):  # apt-get has said why
            subprocess.run(["apt-get", *patience, "update"], check=True)
            subprocess.run(["apt-get", *patience, "install", *packages], env=variables, check=True)
        reason = why_not()
    if reason:
        print(f"the tests of SLURM are skipped: {reason}")


class PrivateSlurm:
    """A cluster of two nodes, `n1` and `n2`.

    Its partitions: ``debug``, the default; ``low``, whose jobs those of ``high`` preempt; ``short``, of a minute; and
    ``gpus``, whose one node has 2 GPUs and is down. Jobs need an account; ``lab`` is root's.

    Args:
        folder: for its files; on a path that is not long, for its sockets.
        accounting: whether it keeps accounts, which sacct reads.
    """

    def __init__(self, folder: Path, *, accounting: bool = True) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self._accounting = accounting
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = {name: _free_port() for name in ("database", "slurmdbd", "slurmctld", "n1", "n2")}

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which commands find it."""
        return {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Starts it, and waits until both nodes are idle.

        Raises:
            CannotStart: when a part of it does not start here.
        """
        try:
            self._start()
        except (OSError, TimeoutError, subprocess.CalledProcessError) as error:
            raise CannotStart(f"a private SLURM does not start here: {error}{self._last_words()}") from error

    def _start(self) -> None:
        for name in ("log", "state", "n1", "n2"):
            (self.folder / name).mkdir(parents=True)
        self._start_munge()
        self._configure()
        if self._accounting:
            self._start_accounting()
        self.start_controller()
        for node in ("n1", "n2"):
            self.start_node(node)
        self.until("both nodes are idle", lambda: self._ask("sinfo", "-h", "-p", "debug", "-o", "%D %T") == "2 idle")
        if self._accounting:
            self.until(
                "its accounts are known",
                lambda: "lab" in (self._ask("scontrol", "show", "assoc_mgr", "users=root") or ""),
            )

    def start_controller(self) -> None:
        """Starts its controller, again where it was stopped: it knows what it knew."""
        self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.conf))

    def stop_controller(self) -> None:
        """Stops its controller, as for an upgrade; jobs run on."""
        daemon = self._daemons.pop("slurmctld")
        daemon.terminate()
        daemon.wait(PATIENCE)

    def start_node(self, node: str) -> None:
        """Starts a node's daemon."""
        self._daemon(node, "slurmd", "-D", "-N", node, "-f", str(self.conf))

    def return_node(self, node: str) -> None:
        """Starts the daemon of a node that was killed, and waits until jobs may run there."""
        self.start_node(node)
        self.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self.until(f"{node} is back", lambda: self._ask("sinfo", "-h", "-n", node, "-p", "debug", "-o", "%T") == "idle")

    def kill_node(self, node: str) -> None:
        """Kills a node's daemon and all that it runs, as a loss of power would, and says so to the controller.

        By itself it would see that after `SlurmdTimeout`, which is long: a node that a busy machine keeps waiting is no
        lost one. It is drained too: an answer that was under way would return it to service.
        """
        self.ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=lost")
        daemon = self._daemons.pop(node)
        parts = [pid for pid in _processes() if _is_of_a_job(pid, node, self.folder)]
        steps = {parent for parent in map(_parent, parts) if "slurmstepd" in _title(parent)}
        for pid in [daemon.pid, *steps, *parts]:  # in this order: a step would report the end of what it runs
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.wait()
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def ask(self, *command: str) -> str:
        """What one of its commands prints."""
        return subprocess.run(
            command, env={**os.environ, **self.environment}, check=True, capture_output=True, text=True
        ).stdout.strip()

    def stop(self) -> None:
        """Ends all jobs and daemons."""
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            subprocess.run(["scancel", "--user=root"], env={**os.environ, **self.environment}, timeout=10)
            self.until("no job runs", lambda: not self._ask("squeue", "-h"), 20)
        for pid in [one for one in _processes() if _is_a_step(one, self.folder)]:  # it would wait for its controller
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemons = list(self._daemons.values())[::-1]
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def until(self, what: str, holds: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Waits until something holds.

        Raises:
            TimeoutError: when it does not, or a daemon has ended.
        """
        deadline = time.monotonic() + patience
        while not holds():
            if time.monotonic() > deadline or self._ended():
                raise TimeoutError(f"waited in vain until {what}; see {self.folder / 'log'}")
            time.sleep(0.1)

    def _ended(self) -> list[str]:
        """Daemons that have ended by themselves."""
        return [name for name, daemon in self._daemons.items() if daemon.poll() is not None]

    def _last_words(self) -> str:
        """What daemons that have ended said last."""
        logs = {name: (self.folder / "log" / f"{name}.txt").read_text(errors="replace") for name in self._ended()}
        return "".join(f"; {name}: {(said.strip().splitlines() or ['nothing'])[-1]}" for name, said in logs.items())

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = [f"--{name}-file={self.folder / f'munge.{name}'}" for name in ("key", "log", "pid", "seed")]
        self._daemon("munged", "munged", "--foreground", "--force", f"--socket={self.folder / 'munge.socket'}", *files)
        self.until("munge answers", (self.folder / "munge.socket").exists)

    def _start_accounting(self) -> None:
        database, socket_file = self.folder / "database", self.folder / "database.socket"
        subprocess.run(
            [_program("mariadb-install-db"), "--no-defaults", f"--datadir={database}", "--user=root", "--skip-test-db"],
            check=True,
            capture_output=True,
        )
        self._daemon(
            *(
                "mariadbd",
                "mariadbd",
                "--no-defaults",
                f"--datadir={database}",
                f"--socket={socket_file}",
                "--user=root",
            ),
            *("--bind-address=127.0.0.1", f"--port={self._ports['database']}", "--skip-name-resolve"),
            *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
            *(f"--pid-file={self.folder / 'database.pid'}",),
        )
        make = (
            "create database slurm_acct_db; create user slurm@127.0.0.1 identified by 'private';"
            " grant all on slurm_acct_db.* to slurm@127.0.0.1;"
        )
        client = [_program("mariadb"), "--no-defaults", f"--socket={socket_file}", "-e"]
        self.until(
            "the database answers", lambda: not subprocess.run([*client, "select 1"], capture_output=True).returncode
        )
        subprocess.run([*client, make], check=True)
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self.until("the accounting answers", lambda: self._ask("sacctmgr", "-n", "list", "cluster") is not None)
        for made in (["cluster", "private"], ["account", "lab"], ["user", "root", "account=lab"]):
            with contextlib.suppress(subprocess.CalledProcessError):  # it may be there
                self.ask("sacctmgr", "-i", "add", *made)

    def _configure(self) -> None:
        memory = max(1000, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 2 - 500)
        host, ports = socket.gethostname().partition(".")[0], self._ports
        lines = [*_CLUSTER.format(folder=self.folder, host=host, port=ports["slurmctld"]).splitlines()]
        if self._accounting:
            lines += _ACCOUNTING.format(folder=self.folder, port=ports["slurmdbd"]).splitlines()
            accounts = self.folder / "slurmdbd.conf"
            accounts.touch(0o600)
            accounts.write_text(
                _SLURMDBD.format(folder=self.folder, host=host, port=ports["slurmdbd"], database=ports["database"])
            )
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[node]} CPUs=2 RealMemory={memory}"
            for node in ("n1", "n2")
        ]
        lines += _PARTITIONS.splitlines()
        self.conf.write_text("\n".join(lines) + "\n")
        (self.folder / "gres.conf").write_text("AutoDetect=off\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        with (self.folder / "log" / f"{name}.txt").open("ab") as log:
            # With its parent it ends too, where that is killed: a port and a database would be left.
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", _program(program), *arguments],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _ask(self, *command: str) -> str | None:
        with contextlib.suppress(subprocess.SubprocessError):
            return self.ask(*command)
        return None


_CLUSTER = """
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=60
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
SlurmdTimeout=600
KillWait=30
MinJobAge=60
ReturnToService=2
GresTypes=gpu
"""

_ACCOUNTING = """
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits,qos
"""

_SLURMDBD = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=private
StorageLoc=slurm_acct_db
"""

_PARTITIONS = """
NodeName=n3 NodeAddr=127.0.0.1 Port=1 CPUs=16 RealMemory=32000 Gres=gpu:2 Feature=fast State=DOWN
PartitionName=DEFAULT Nodes=n[1-2] MaxTime=INFINITE State=UP DefMemPerCPU=300
PartitionName=debug Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high PriorityTier=10 PreemptMode=OFF
PartitionName=short MaxTime=1
PartitionName=gpus Nodes=n3
"""


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    assert found is not None, name
    return found


def _free_port() -> int:
    """A port that is free, below those that the system gives to connections, which may come before a daemon listens."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _is_of_a_job(pid: int, node: str, folder: Path) -> bool:
    """Whether a process is a part of a job on a node of this cluster."""
    with contextlib.suppress(OSError):
        return f"SLURMD_NODENAME={node}".encode() in _variables(pid) and _is_of(pid, folder)
    return False


def _is_a_step(pid: int, folder: Path) -> bool:
    """Whether a process watches a part of a job of this cluster."""
    with contextlib.suppress(OSError):
        return _title(pid).startswith("slurmstepd") and _is_of(pid, folder)
    return False


def _is_of(pid: int, folder: Path) -> bool:
    return f"SLURM_CONF={folder}/slurm.conf".encode() in _variables(pid)


def _variables(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


@contextlib.contextmanager
def running(folder: Path, *, accounting: bool = True) -> Iterator[PrivateSlurm]:
    """A cluster that runs while the block does."""
    cluster = PrivateSlurm(folder, accounting=accounting)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


if __name__ == "__main__" and sys.argv[1:] == ["install"]:
    install()
elif __name__ == "__main__":
    for _number in (signal.SIGINT, signal.SIGTERM):  # in the background of a shell, Ctrl-C is ignored otherwise
        signal.signal(_number, signal.default_int_handler)
    with running(Path(sys.argv[1]).absolute()) as started, contextlib.suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={started.conf}", flush=True)
        signal.pause()
