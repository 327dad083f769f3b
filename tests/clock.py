"""A clock that is wrong, or jumps, for other processes: see clock.c."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """The time of day in the processes that start with `env`, in seconds off the true one.

    It is compiled into `directory`, which has to last as long as they do; clocks may share it.
    """

    def __init__(self, directory: Path, off_by: int = 0) -> None:
        compiled = directory / "clock.so"
        if not compiled.exists():
            command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(compiled), str(SOURCE), "-ldl"]
            subprocess.run(command, check=True)
        self.file = directory / f"clock-{len(list(directory.iterdir()))}"
        self.file.write_bytes(struct.pack("q", off_by))
        self.env = {"LD_PRELOAD": str(compiled), "CLOCK_OFF_BY": str(self.file)}

    def set(self, off_by: int) -> None:
        """Let it jump in the processes that run."""
        with self.file.open("r+b") as file:  # in place, because they have it mapped
            file.write(struct.pack("q", off_by))
