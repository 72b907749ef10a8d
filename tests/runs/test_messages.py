"""Which exceptions are the user's to mend, and what is said about them."""

import errno
import os
from collections.abc import Callable

import pyarrow as pa

from dsd.errors import UserError
from dsd.runs.messages import explain


def raised(function: Callable[..., object], *args: object) -> Exception:
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_user_error_is_found_under_what_wraps_it() -> None:
    def wrapped() -> None:
        try:
            raise UserError("photo.jpg: not an image;\n  replace it")
        except UserError as error:
            raise RuntimeError("a library's own words") from error

    assert explain(raised(wrapped)) == "photo.jpg: not an image; replace it"


def test_bugs_are_not_explained_away() -> None:
    assert explain(KeyError("image")) is None
    assert explain(ZeroDivisionError()) is None


def test_what_the_machine_refuses_is_one_line() -> None:
    missing = explain(raised(open, "/nowhere/at/all"))
    assert missing == "/nowhere/at/all: No such file or directory; check the path, and run the same command again"
    assert explain(raised(open, "/" + "a" * 300)).endswith(": File name too long; choose a shorter name")
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS), "out/x")
    assert explain(read_only) == "out/x: Read-only file system; choose a folder that can be written"
    assert "a Parquet file is damaged" in explain(pa.ArrowInvalid("Couldn't deserialize thrift"))


def test_a_full_disk_by_number_or_by_words() -> None:
    by_number = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard.parquet")
    by_words = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (
        explain(by_number) == "no space left on device: shard.parquet; free some space and run the same command again"
    )
    assert explain(by_words, "outputs/a").startswith("no space left on device: outputs/a; ")


def test_a_closed_folder() -> None:
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/root/x")
    assert explain(error) == "/root/x: Permission denied; choose another folder or change its permissions"


def test_a_line_is_one_line_that_steers_no_terminal() -> None:
    assert explain(UserError("a\nb\x1b[31m\x9b c")) == "a b?[31m? c"


def test_too_little_memory_is_one_line() -> None:
    assert "not enough memory" in explain(MemoryError())
    assert "not enough memory" in explain(RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"))
    assert explain(RuntimeError("shapes do not match")) is None
