"""A handler that costs next to nothing: nginx, answering 200 at once. One in Python would be what is measured."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlqctl.errors import DlqctlError

_CONFIG = """
daemon off; worker_processes 1; worker_rlimit_nofile 16384; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000; keepalive_timeout 600s; client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  split_clients "$request_id" $upstream {{ {share}% hangs; * answers; }}
  server {{
    listen 127.0.0.1:{port} backlog=8192;
    location / {{ return 200 ok; }}
    location /some-hang {{ if ($upstream = hangs) {{ rewrite ^ /hang last; }} return 200 ok; }}
    location /hang {{ proxy_pass http://127.0.0.1:{silent}; proxy_read_timeout 600s; }}
  }}
}}
"""


@contextmanager
def fast_handler(share: float = 0.01) -> Iterator[str]:
    """Run it until the block ends, and yield its URL. Under /some-hang, a share of the requests is never answered.

    Raises DlqctlError if there is no nginx.
    """
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        raise DlqctlError("there is no nginx to send to", "apt-get install nginx-light")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dlqctl-nginx-")))
        folder.chmod(0o755)
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=8192))  # connected to, never read
        port = _free_port()
        settings = {"folder": folder, "port": port, "silent": silent.getsockname()[1], "share": f"{share * 100:g}"}
        (folder / "nginx.conf").write_text(_CONFIG.format(**settings))
        command = [program, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
        process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        stack.callback(process.terminate)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise DlqctlError("nginx does not start", (folder / "error.log").read_text()[-500:])
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
