"""Replacing a file in one step."""

import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from serkit.files import replacing, write_atomically


@pytest.mark.parametrize("content", ["zwei Wörter\r\nund mehr\n", "", b"\x00\xff\n"])
def test_what_is_written_is_read_back_byte_by_byte(tmp_path, content):
    path = tmp_path / "file.txt"
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["file.txt"]


def test_old_content_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert part.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(str(path)) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "file.txt", "text")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "ours", "")
    with replacing(tmp_path / "secretive") as part:
        part.unlink()
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_threads_that_write_one_file_leave_what_one_of_them_wrote(tmp_path):
    path = tmp_path / "file.txt"
    contents = [str(number) * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(path, content), contents * 5))
    assert path.read_text() in contents
    assert os.listdir(tmp_path) == ["file.txt"]
