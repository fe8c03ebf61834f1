"""What an endpoint's URL may name: by itself nothing that only the database server can reach."""

from __future__ import annotations

import psycopg
import pytest

from tests.db.conftest import Queue

PRIVATE = """
    127.0.0.1 127.1 127.0.1 127.255.255.254 2130706433 017700000001 0177.0.0.1 0x7f.1 0x7f000001 0X7F.0.0.1
    0x7f.0x0.0x0.0x1 0.0.0.0 0 0x0 00.0.0.0 10.0.0.1 10.1 010.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1
    192.168.257 100.64.0.1 100.127.255.255 169.254.169.254 169.16689662 2852039166 0xa9fea9fe 169.254.43518
    0xa9.254.0251.254 192.0.0.192 198.18.0.1 224.0.0.1 255.255.255.255 256.256.256.256 1.2.3.4.5 1.2.3 08.8.8.8
    8.8.8.08 127.0.0.1. 2130706433. 0x [::] [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1]
    [::ffff:10.0.0.1] [::127.0.0.1] [fc00::1] [fd12:3456::1] [fe80::1] [FE80::1] [febf::1] [fec0::1] [ff02::1]
    [64:ff9b::7f00:1] [64:ff9b:1::a00:1] [100::1] [2002:7f00:1::] [2002:a00:1::1] [2001::1] [2001:0:7f00:1::]
    [2001:0000:1::1] [2:3::1] [::2001:4860:4860] [200:1::1] localhost LOCALHOST localhost. app.localhost
    localhost.localdomain db metadata kong printer.local. metadata.google.internal nas.home.arpa instance-data
""".split()  # noqa: SIM905

PUBLIC = """
    1.1.1.1 8.8.8.8 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 169.253.1.1 172.15.0.1
    172.32.0.1 192.167.1.1 192.169.0.1 198.20.0.1 223.255.255.255 [2606:4700:4700::1111] [2001:4860:4860::8888]
    [2a00:1450::1] [2A00:1450::1] [3fff::1] handler.example Handler.Example handler.example. project.supabase.co
    xn--bcher-kva.example 10.0.0.1.example 0x7f.example 127.0.0.1.example localhost.example my_host.example
    1e100.net a.b
""".split()  # noqa: SIM905


def refused(queue: Queue, url: str, service: str = "shop") -> psycopg.errors.Diagnostic | None:
    """Why an endpoint is not taken, or None if it is."""
    try:
        queue.endpoint(service, url)
    except psycopg.DatabaseError as error:
        if error.sqlstate != "WD002":
            raise
        return error.diag
    return None


def test_no_host_that_is_not_public_however_it_is_spelled(queue: Queue) -> None:
    urls = [f"https://{host}{tail}" for host in PRIVATE for tail in ("/", ":8443/a?b=c", "?x=1", "")]

    assert [url for url in urls if refused(queue, url) is None] == []


def test_who_is_refused_is_told_why_and_what_to_say(queue: Queue) -> None:
    said = refused(queue, "https://169.254.169.254/latest/meta-data/")

    assert said is not None
    assert "public unless allowed" in str(said.message_primary)
    assert "allow_private => true" in str(said.message_hint)


def test_what_is_no_url_at_all_is_not_taken_for_a_private_one(queue: Queue) -> None:
    for url in ("gopher://handler.example/", "handler.example", "https://user@handler.example/", ""):
        said = refused(queue, url)
        assert said is not None
        assert "allow_private" not in str(said.message_hint), url


def test_public_hosts_are_taken_and_others_where_somebody_says_so(queue: Queue) -> None:
    for host in PUBLIC:
        queue.endpoint(url=f"https://{host}:8443/hook")
    for host in PRIVATE:
        queue.endpoint(url=f"https://{host}/", allow_private=True)
    queue.endpoint(url="https://127.0.0.1/new")  # what is not given stays
    assert queue.one("select host from dlq.endpoints") == "127.0.0.1"


def test_writing_to_the_table_is_no_way_round_it(queue: Queue) -> None:
    for write in (
        "insert into dlq.endpoints (service, url) values ('other', 'https://127.0.0.1/')",
        "update dlq.endpoints set url = 'https://[::1]/'",
        "update dlq.endpoints set host = 'handler.example', url = 'https://[::1]/'",
    ):
        with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.GeneratedAlways)):
            queue.conn.execute(write.encode())


def test_whoever_names_a_service_does_not_name_the_host(queue: Queue) -> None:
    whole = """
        {service} {service}. x.{service} 10.0.0.{service} {service}.0.0.1 {service}{service}
        example.com{service} {service}.internal {service}.localhost [{service}] a.b-{service}
    """.split()  # noqa: SIM905
    taken = [host for host in whole if refused(queue, f"https://{host}/{{service}}", "*") is None]

    assert taken == []
    for host in ("{service}.handler.example", "hooks-{service}.handler.example", "handler.example"):
        queue.endpoint("*", f"https://{host}/{{service}}")


AMBIGUOUS = (
    "https://handler.example@127.0.0.1/", "https://a:b@handler.example/", "https://handler.example\\@127.0.0.1/",
    "https://handler.example:80@127.0.0.1/", "https://127.0.0.1%2ehandler.example/", "https:///127.0.0.1/",
    "https://handler.example /", "https://handler.example\t/", "https://handler.example/\r\nX: y", "file:///etc/passwd",
    "gopher://handler.example/", "https://handler.example#@127.0.0.1/", "https://①②⑦.0.0.1/", "https://127。0。0。1/",
    "https://[::1%25lo]/", "https:/127.0.0.1/", "HTTPS://127.0.0.1/", " https://127.0.0.1/", "https://handler.example:99x/",
)  # fmt: skip


def test_what_two_parsers_could_read_differently_is_refused_even_where_private_is_allowed(queue: Queue) -> None:
    for url in AMBIGUOUS:
        with pytest.raises(psycopg.Error) as caught:
            queue.endpoint(url=url, allow_private=True, allow_http=True)
        assert caught.value.sqlstate == "WD002", url
