"""The lock of a run folder: one process at a time, released however it ends."""

import signal
import subprocess
import sys
import time

import pytest

from serkit.training.lock import FolderLock
from serkit.types import InputError


def test_the_second_is_told_and_the_lock_is_free_afterwards(tmp_path):
    with FolderLock(tmp_path) as first, FolderLock(tmp_path) as second:
        first.take()
        first.take()  # without effect
        with pytest.raises(InputError, match="another serkit is at work in this run folder"):
            second.take()
    with FolderLock(tmp_path) as third:
        third.take()


def test_a_lock_that_was_not_taken_leaves_no_file(tmp_path):
    with FolderLock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with (
        FolderLock(tmp_path / "none") as lock,
        pytest.raises(InputError, match="cannot be written"),
    ):
        lock.take()


HOLDER = """
import sys, time
from pathlib import Path
from serkit.training.lock import FolderLock
with FolderLock(Path(sys.argv[1])) as lock:
    lock.take()
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_holds_nothing(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with FolderLock(tmp_path) as lock, pytest.raises(InputError, match="at work"):
        lock.take()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    time.sleep(0.05)
    with FolderLock(tmp_path) as lock:
        lock.take()
