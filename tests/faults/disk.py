"""A small disk, to be filled: a tmpfs, where one may be mounted."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Unmounts when its standard input ends, which is when we let go of the pipe, in whatever way.
_UNMOUNT = """
cat
tries=0
until umount "$1"; do
  [ $tries -eq 100 ] && umount -l "$1" && break
  sleep 0.1
  tries=$((tries + 1))
done
rmdir "$1"
"""


class SmallDisk:
    """A disk of its own for what is made in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave not a byte."""
        stat = os.statvfs(self.folder)
        with self._ballast.open("ab") as file:
            size = file.tell()
            for block in (stat.f_bavail * stat.f_frsize, 1 << 20, 1 << 12):
                for _ in range(64):  # others take and give meanwhile
                    try:
                        os.posix_fallocate(file.fileno(), size, block)
                        size += block
                    except OSError:
                        break

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk | str]:
    """Mount one and have temporary files made there; or say why there is none. Gone afterwards, also after kill -9."""
    folder = Path(tempfile.mkdtemp(prefix="dlqctl-disk-", dir="/tmp"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    ) if os.geteuid() == 0 and os.uname().sysname == "Linux" else None  # fmt: skip
    if done is None or done.returncode:
        folder.rmdir()
        yield done.stderr.strip() if done is not None else "only root may mount a small disk"
        return
    watch = subprocess.Popen(
        ["/bin/sh", "-c", _UNMOUNT, "unmount", folder],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
    )  # fmt: skip
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield SmallDisk(folder)
    finally:
        tempfile.tempdir = before
        watch.communicate()
