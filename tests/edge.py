"""An edge function of a page in deno, and a stand-in for the PostgREST that it calls."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.supabase import free_port

SERVICE_KEY = "service-key"

_TYPES = {"raw_body": "bytea", "payload": "jsonb", "headers": "jsonb"}


@contextlib.contextmanager
def serve(folder: Path, env: Mapping[str, str], port: int = 0) -> Iterator[str]:
    """Run the folder's index.ts with this environment, and yield its URL; skip without deno. Port 0 is a free one."""
    deno = shutil.which("deno")
    if deno is None:
        pytest.skip("deno is not installed")
    port = port or free_port()
    words = ["run", "--no-prompt", "--no-remote", "--check", "--allow-net=127.0.0.1", "--allow-env"]
    process = subprocess.Popen(
        [deno, *words, f"--allow-read={folder}", "index.ts"],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DENO_SERVE_ADDRESS": f"tcp:127.0.0.1:{port}",
            "DENO_NO_UPDATE_CHECK": "1",
            **env,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(process.communicate()[1].decode())
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.communicate()


class Door(ThreadingHTTPServer):
    """What PostgREST does, with the service key, for the functions by which failed webhooks come in.

    While `is_open` is false, it hangs up without a word.
    """

    daemon_threads = True

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.is_open = True
        super().__init__(("127.0.0.1", 0), _DoorHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _DoorHandler(BaseHTTPRequestHandler):
    server: Door

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.server.is_open:
            return
        status, answer = "400", ""
        if [self.headers["authorization"], self.headers["apikey"]] == [f"Bearer {SERVICE_KEY}", SERVICE_KEY]:
            call = {
                ("/rest/v1/rpc/receive_webhook", "application/octet-stream"): _receive_webhook,
                ("/rest/v1/rpc/store_dlq_entry", "application/json"): _store_dlq_entry,
            }.get((self.path, self.headers["content-type"]))
            if call is not None:
                headers = json.dumps({name.lower(): value for name, value in self.headers.items()})
                with psycopg.connect(self.server.dsn) as conn:
                    conn.execute("select set_config('request.headers', %s, true)", (headers,))
                    answer = call(conn, body)
                    row = conn.execute("select current_setting('response.status', true)").fetchone()
                    status = (row and row[0]) or "200"
        self.send_response(int(status))
        self.send_header("content-length", str(len(answer.encode())))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _receive_webhook(conn: psycopg.Connection, body: bytes) -> str:
    row = conn.execute("select public.receive_webhook(%s)::text", (body,)).fetchone()
    assert row
    return str(row[0])


def _store_dlq_entry(conn: psycopg.Connection, body: bytes) -> str:
    given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in json.loads(body).items()}
    arguments = ", ".join(f"{name} => %({name})s::text::{_TYPES.get(name, 'text')}" for name in given)
    row = conn.execute(f"select to_json(public.store_dlq_entry({arguments}))::text".encode(), given).fetchone()
    assert row
    return str(row[0])


@contextlib.contextmanager
def open_door(dsn: str) -> Iterator[Door]:
    """Run such a stand-in as whom a DSN connects."""
    with Door(dsn) as door:
        thread = threading.Thread(target=door.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield door
        finally:
            door.shutdown()
            thread.join()
