"""The app in a project of somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys

from .processes import BASE_DIR


def test_a_host_whose_users_have_uuids(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.host"],
        cwd=BASE_DIR,
        env={**os.environ, "HOST_DATABASE": str(tmp_path / "host.sqlite3")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
