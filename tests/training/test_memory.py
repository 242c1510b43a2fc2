"""Memory: amounts as people write them, and what Linux and its control groups say."""

import sys

import pytest

from serkit.training.memory import format_size, free_memory, parse_size, usage
from serkit.types import InputError


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("8GiB", 8 * 2**30),
        ("500MiB", 500 * 2**20),
        ("500 mib", 500 * 2**20),
        ("2GB", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("123456", 123456),
        ("64 B", 64),
    ],
)
def test_amounts_are_read(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "lots", "8 Gigs", "-1GiB", "0", "GiB", "1e9", "8GiB8", "٣"])
def test_other_text_is_refused(text):
    with pytest.raises(InputError, match="expected an amount such as 8GiB"):
        parse_size(text)


def test_amounts_are_written():
    assert format_size(3 * 2**29) == "1.5 GiB"
    assert format_size(300 * 2**20) == "300 MiB"


MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"


def machine(tmp_path, cgroup: str, files: dict[str, str]):
    """Build a /proc and a /sys/fs/cgroup."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"proc": tmp_path / "proc", "groups": tmp_path / "cgroup"}


def test_without_limits_the_kernel_knows(tmp_path):
    assert free_memory(**machine(tmp_path, "0::/\n", {})) == 8_000_000 * 1024


def test_a_lower_limit_of_any_group_above_counts_less_what_is_used_and_not_cache(tmp_path):
    files = {
        "job/memory.max": "1000000",
        "job/memory.current": "700000",
        "job/memory.stat": "anon 5\ninactive_file 100000\n",
        "job/task/memory.max": "max",
        "job/task/memory.current": "700000",
        "job/task/memory.stat": "",
    }
    assert free_memory(**machine(tmp_path, "0::/job/task\n", files)) == 400_000


def test_the_older_groups_and_containers_are_understood(tmp_path):
    # A container does not see the path of its group; its own is the root.
    files = {
        "memory/memory.limit_in_bytes": "1000000",
        "memory/memory.usage_in_bytes": "900000",
        "memory/memory.stat": "total_inactive_file 50000\n",
    }
    assert free_memory(**machine(tmp_path, "8:cpu:/x\n4:memory:/docker/1\n", files)) == 150_000


def test_an_exhausted_group_leaves_nothing(tmp_path):
    files = {"memory.max": "10", "memory.current": "20", "memory.stat": ""}
    assert free_memory(**machine(tmp_path, "0::/\n", files)) == 0


def test_elsewhere_half_of_the_physical_memory_is_taken_as_free(tmp_path):
    assert free_memory(proc=tmp_path) >= 2**28


def test_usage_tells_own_memory_from_mapped_files(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text(
        "VmHWM:\t  900 kB\nRssAnon:\t 500 kB\nRssFile:\t 150 kB\nRssShmem:\t 50 kB\n"
    )
    used = usage(proc=tmp_path)
    assert (used.private, used.private_peak, used.mapped) == (500 * 1024, 700 * 1024, 200 * 1024)


def test_usage_elsewhere_is_the_whole_peak(tmp_path):
    used = usage(proc=tmp_path)
    assert used.mapped == 0
    assert used.private == used.private_peak >= 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_this_process_sees_what_was_freed():
    before = usage().private_peak
    block = bytearray(64 * 2**20)
    del block
    assert usage().private_peak >= before
    assert usage().private < usage().private_peak + 2**20
