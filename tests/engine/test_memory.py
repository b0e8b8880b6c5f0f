"""The memory that runs share."""

import itertools

import pytest

from lowrung.engine import memory

MEMINFO = "MemTotal:       8000000 kB\nMemFree:        1000000 kB\nMemAvailable:   6000000 kB\n"


@pytest.fixture
def system(tmp_path):
    """Makes /proc and /sys of a machine: its own control group's path, and files by their path."""

    def system(cgroup="0::/", **files):
        for name, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup + "\n", **files.pop("at", {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return system


def _main(root):
    room = memory.main(root)
    assert room is not None
    return room


def test_main_memory_is_what_linux_says(system):
    room = _main(system())
    assert (room.total, room.free, room.name) == (8_192_000_000, 6_144_000_000, "main memory")


def test_a_control_group_leaves_less(system):
    group = "sys/fs/cgroup/slurm/job"
    files = {
        f"{group}/memory.max": "2000000000",
        f"{group}/memory.current": "700000000",
        f"{group}/memory.stat": "anon 1\ninactive_file 200000000\n",
        "sys/fs/cgroup/slurm/memory.max": "max",
        "sys/fs/cgroup/slurm/memory.current": "9",
    }
    room = _main(system("0::/slurm/job", at=files))
    assert (room.total, room.free) == (2e9, 1.5e9)
    assert "control group" in room.name


def test_the_tightest_group_above_counts(system):
    files = {
        "sys/fs/cgroup/user/memory.max": "1000000000",
        "sys/fs/cgroup/user/memory.current": "0",
        "sys/fs/cgroup/user/own/memory.max": "3000000000",
        "sys/fs/cgroup/user/own/memory.current": "0",
    }
    assert _main(system("0::/user/own", at=files)).total == 1e9


def test_groups_of_the_first_version_count_too(system):
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000000",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000000",
    }
    lines = "9:name=systemd:/\n4:memory:/docker/abc\n0::/"  # in a container the own group is the root that it sees
    assert _main(system(lines, at=files)).total == 4e9


def test_no_limit_is_none(system):
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000000",
    }
    assert _main(system("4:memory:/", at=files)).name == "main memory"


def test_a_system_that_does_not_say_is_not_known(tmp_path):
    assert memory.main(tmp_path) is None


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A program of this name, as a line of shell."""

    def nvidia_smi(line):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return nvidia_smi


@pytest.mark.parametrize(
    ("visible", "line", "total"),
    [
        ("0", "echo 'NVIDIA H100, 81559, 1000'", 81559 * 2**20),
        ("0,1", 'case $1 in *=1) echo "A, 40000, 0";; *) echo "B, 80000, 0";; esac', 40000 * 2**20),
        ("MIG-1-2", "echo '  MIG 1g.10gb     Device  0: (UUID: MIG-1-2)'", 10 * 2**30),
        ("0", "echo 'NVIDIA GB10, [N/A], [N/A]'", None),
        ("0", "exit 9", None),
    ],
)
def test_a_gpu_is_asked_without_cuda(nvidia_smi, monkeypatch, visible, line, total):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvidia_smi(line)
    room = memory.of_gpu()
    assert (room and room.total) == total


class TestKills:
    """Processes that the system has ended for want of memory."""

    V2 = "sys/fs/cgroup/job/memory.events"
    V1 = "sys/fs/cgroup/memory/memory.oom_control"

    @pytest.mark.parametrize(
        ("cgroup", "files", "count"),
        [
            ("0::/job", {V2: "oom 7\noom_kill 2\noom_group_kill 0\n", "proc/vmstat": "oom_kill 9\n"}, 2),
            ("4:memory:/", {V1: "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "proc/vmstat": "oom_kill 9\n"}, 3),
            ("4:memory:/elsewhere\n0::/", {V1: "oom_kill 3\n"}, 3),
            ("0::/", {"proc/vmstat": "nr_dirty 5\noom_kill 9\n"}, 9),
            ("0::/", {}, 0),
        ],
    )
    def test_the_own_control_groups_count_and_else_those_of_the_system(self, system, cgroup, files, count):
        assert memory.Kills(system(cgroup, at=files)).count == count

    @pytest.fixture
    def vmstat(self, system):
        vmstat = system("0::/") / "proc/vmstat"
        vmstat.write_text("oom_kill 9\n")
        return vmstat

    @pytest.fixture
    def kills(self, vmstat):
        return memory.Kills(vmstat.parent.parent)

    @pytest.fixture
    def kill(self, vmstat, kills):
        """Has the system end one more process."""
        return lambda: vmstat.write_text(f"oom_kill {kills.count + 1}\n")

    def test_each_explains_one_end(self, kills, kill):
        since = kills.count
        assert not kills.explain(since)
        kill()
        kill()
        assert [kills.explain(since) for _ in range(3)] == [True, True, False]

    def test_the_end_of_one_that_began_before_anothers_was_explained_is_explained_too(self, kills, kill):
        first = kills.count
        kill()
        second = kills.count
        assert kills.explain(first)
        kill()
        assert kills.explain(second)

    def test_what_hit_others_before_a_process_began_does_not_explain_its_end(self, kills, kill):
        kill()
        since = kills.count
        assert not kills.explain(since)

    def test_one_that_is_wrongly_explained_hides_no_other(self, kills, kill):
        """The first one is somebody else's process; what somebody ends by SIGKILL meanwhile is taken for it."""
        before = kills.count
        kill()
        after = kills.count
        assert kills.explain(before)
        kill()
        assert [kills.explain(after), kills.explain(after), kills.explain(before)] == [True, False, False]

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_in_whichever_order_ends_are_heard_of(self, kills, kill, order):
        begun = []
        for _ in range(3):
            begun.append(kills.count)
            kill()
        assert [kills.explain(begun[one]) for one in order] == [True, True, True]
        assert not kills.explain(begun[0])
