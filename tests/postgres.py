"""A real PostgreSQL: Debian's, in a folder of its own, reached by a socket file, so that it takes no port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg

SETTINGS = "listen_addresses = ''\nmax_connections = 60\nshared_buffers = 16MB\ndynamic_shared_memory_type = posix\n"


def programs() -> Path:
    """The folder of the newest server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    assert found, "the Debian package postgresql is missing: apt-get install postgresql"
    return found[-1].parent


class Postgres:
    """One server; it refuses to run as root, so root lends it the package's user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        made = [*self._as, str(programs() / "initdb"), "-D", str(self.data), "-U", "landing", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
        done = subprocess.run(made, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(f"{SETTINGS}unix_socket_directories = '{folder}'\n")

    def where(self, schema: str = "public") -> str:
        """Connection string; tables are made in that schema."""
        return f"host={self.folder} user=landing dbname=postgres options='-c search_path={schema}'"

    def new_schema(self) -> str:
        """An empty place for tables: its connection string."""
        name = f"s{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.where(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return self.where(name)

    def start(self) -> None:
        """Start and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            command = [*self._as, str(programs() / "postgres"), "-D", str(self.data)]
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        ready = [str(programs() / "pg_isready"), "-q", "-h", str(self.folder), "-t", "60"]
        for _ in range(600):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
        raise AssertionError("PostgreSQL is not ready after 60 s")

    def kill(self) -> None:
        """As a power cut would: every process of it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def postgresql() -> Iterator[Postgres]:
    """One that runs; its socket needs a short path."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    made = Postgres(folder)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)
