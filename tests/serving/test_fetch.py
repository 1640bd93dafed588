"""Fetching URLs.

Real servers on two loopback addresses represent a public host and the internal network.
"""

import asyncio
import base64
import gzip
import ipaddress
import pickle
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote_to_bytes

import httpx
import pytest

from gve_ray.serving.fetch import Fetcher, FetchError, FetchReason, is_public, resolve_name

OUTSIDE, INSIDE, CLOSED = "127.0.0.2", "127.0.0.1", "127.0.0.3"
CLIP = bytes(range(256)) * 40
LIMIT = 100_000
TLS = httpx.create_ssl_context()  # takes longer to make than most tests


class Site(ThreadingHTTPServer):
    """A server whose pages are functions that take the request handler."""

    daemon_threads = True

    def __init__(self, address: str, port: int = 0) -> None:
        super().__init__((address, port), Handler)
        self.pages: dict[str, Callable[[Handler], None]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []  # path, headers

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, request, client_address) -> None:
        """Ignore errors of closed connections, which these tests cause on purpose."""


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.server.pages[self.path.partition("?")[0]](self)

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def page(body: bytes, status: int = 200, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(body, status, **headers)


def redirect(to: str, status: int = 302) -> Callable[[Handler], None]:
    return page(b"", status, Location=to, Set_Cookie="seen=1")


def serving(site: Site) -> Iterator[Site]:
    thread = threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield site
    site.shutdown()
    site.server_close()
    thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    """Yield a public host: media.example.org."""
    yield from serving(Site(OUTSIDE))


@pytest.fixture
def inside() -> Iterator[Site]:
    """Yield an internal server on the address of local services, which must never be reached."""
    site = Site(INSIDE)
    site.pages["/secret"] = page(b"secret")
    yield from serving(site)


async def resolve(host: str, port: int) -> Sequence[str]:
    return [OUTSIDE] if host.endswith("example.org") else await resolve_name(host, port)


def is_outside(address: object) -> bool:
    return str(address) == OUTSIDE or is_public(address)  # type: ignore[arg-type]


def fetch(url: str, hosts: Sequence[str] = (), **settings: object) -> bytes:
    usual = {"max_bytes": LIMIT, "seconds": 20.0, "resolve": resolve, "is_allowed_address": is_outside}
    usual["tls"] = TLS
    return asyncio.run(Fetcher(hosts, **(usual | settings)).fetch(url))  # type: ignore[arg-type]


def refusal(url: str, hosts: Sequence[str] = (), **settings: object) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetch(url, hosts, **settings)
    return caught.value


def test_a_file_of_an_allowed_host_is_read_unchanged(site, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):  # a proxy would resolve the name itself
        monkeypatch.setenv(name, f"http://{CLOSED}:1")
    site.pages["/clip.mp4"] = page(CLIP)
    host = f"media.example.org:{site.port}"
    assert fetch(f"http://{host}/clip.mp4?v=1&w=%20#t=3", [host]) == CLIP
    ((path, headers),) = site.seen
    assert path == "/clip.mp4?v=1&w=%20"
    assert headers["host"] == host
    assert headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer"} & set(headers)


@pytest.mark.parametrize(
    "url,entry",
    [
        ("http://MEDIA.Example.ORG:{port}/a", "media.example.org:{port}"),
        ("http://media.example.org.:{port}/a", "Media.example.org:{port}"),
        ("http://media.example.org:{port}/a", "media.example.org.:{port}"),
        ("http://a.b.example.org:{port}/a", "*.example.org:{port}"),
        ("http://bücher.example.org:{port}/a", "xn--bcher-kva.example.org:{port}"),
        ("http://xn--bcher-kva.example.org:{port}/a", "BÜCHER.example.org:{port}"),
    ],
)
def test_spellings_of_an_allowed_host(site, url, entry):
    site.pages["/a"] = page(b"x")
    assert fetch(url.format(port=site.port), [entry.format(port=site.port)]) == b"x"


@pytest.mark.parametrize(
    "host",
    [
        "example.org",
        "evil.example",
        "notexample.org",
        "media.example.org.evil.example",
        "media.example.org..",
        "media.example.com",
        "media%2eexample.org",
        "127.0.0.1",
        "[::1]",
        "localhost",
        "2130706433",
    ],
)
def test_other_hosts_are_refused_before_they_are_looked_up(host):
    async def never_called(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was looked up")

    error = refusal(f"http://{host}/a", ["media.example.org", "*.example.org"], resolve=never_called)
    assert (error.reason, error.status) == (FetchReason.HOST, 403)
    assert "allow-list" in error.message


def test_without_an_allow_list_only_data_urls_are_read():
    assert refusal("https://media.example.org/a").reason == "host_not_allowed"
    assert fetch("data:,a") == b"a"


@pytest.mark.parametrize(
    "url,hosts,allowed",
    [
        ("http://media.example.org:{port}/a", ["media.example.org"], False),
        ("http://media.example.org:{port}/a", ["media.example.org:{port}"], True),
        ("http://media.example.org:{port}/a", ["media.example.org", "media.example.org:{port}"], True),
        ("http://media.example.org:{port}/a", ["media.example.org:1", "*.example.org"], False),
        ("http://media.example.org:443/a", ["media.example.org"], False),
        ("http://media.example.org/a", ["media.example.org:{port}"], False),
    ],
)
def test_ports_must_be_standard_or_on_the_allow_list(site, url, hosts, allowed):
    site.pages["/a"] = page(b"x")
    url, hosts = url.format(port=site.port), [host.format(port=site.port) for host in hosts]
    if allowed:
        assert fetch(url, hosts) == b"x"
    else:
        error = refusal(url, hosts)
        assert (error.reason, error.status) == (FetchReason.PORT, 403)
        assert site.seen == []


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "http://example.org",
        "example.org/a",
        "a@example.org",
        "exa mple.org",
        "a.*.org",
        "x:0",
        "x:y",
    ],
)
def test_invalid_entries_of_the_allow_list_are_refused_at_the_start(entry):
    with pytest.raises(ValueError, match="allowed host") as caught:
        Fetcher([entry], max_bytes=1, seconds=1)
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    "url,reason",
    [
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("FILE:///etc/passwd", "scheme_not_allowed"),
        ("ftp://media.example.org/a", "scheme_not_allowed"),
        ("s3://bucket/a.mp4", "scheme_not_allowed"),
        ("gopher://media.example.org/_x", "scheme_not_allowed"),
        ("javascript:alert(1)", "scheme_not_allowed"),
        ("/etc/passwd", "scheme_not_allowed"),
        ("../../etc/passwd", "scheme_not_allowed"),
        ("asset://abc/video", "scheme_not_allowed"),
        ("//media.example.org/a", "scheme_not_allowed"),
        (" data:,x", "scheme_not_allowed"),
        ("", "scheme_not_allowed"),
        ("http://", "bad_url"),
        ("http:///a", "bad_url"),
        ("http:media.example.org/a", "bad_url"),
        ("http://media.example.org:port/a", "bad_url"),
        ("http://media.example.org/a\r\nX: y", "bad_url"),
        ("http://0177.0.0.1/", "bad_url"),
        ("http://[::1/", "bad_url"),
        ("http://media.example.org/" + "a" * 70_000, "bad_url"),
        ("http://user:word@media.example.org/a", "credentials_in_url"),
        ("http://user@media.example.org/a", "credentials_in_url"),
        ("http://media.example.org@evil.example/a", "credentials_in_url"),
    ],
)
def test_invalid_urls_are_refused(url, reason):
    error = refusal(url, ["media.example.org"])
    assert (error.reason, error.status) == (reason, 400)
    assert len(error.message) < 300
    assert "word" not in error.message.replace("password", "")


def test_redirects_are_followed_without_cookies(site):
    host = f"media.example.org:{site.port}"
    site.pages["/1"] = redirect("/2", 301)
    site.pages["/2"] = redirect(f"http://cdn.example.org:{site.port}/3", 307)
    site.pages["/3"] = redirect("4?x=y", 308)
    site.pages["/4"] = page(CLIP)
    assert fetch(f"http://{host}/1", [host, f"cdn.example.org:{site.port}"]) == CLIP
    assert [(path, headers["host"].split(".")[0]) for path, headers in site.seen] == [
        ("/1", "media"),
        ("/2", "media"),
        ("/3", "cdn"),
        ("/4?x=y", "cdn"),
    ]
    assert not any("cookie" in headers for _, headers in site.seen)


def test_endless_redirects_end(site):
    site.pages["/a"] = redirect("/a")
    host = f"media.example.org:{site.port}"
    error = refusal(f"http://{host}/a", [host], max_redirects=3)
    assert (error.reason, error.status) == (FetchReason.REDIRECTS, 502)
    assert len(site.seen) == 4


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://media.example.org/a", "javascript:x", "data:,x"])
def test_a_redirect_to_another_scheme_is_refused(site, to):
    site.pages["/a"] = redirect(to)
    host = f"media.example.org:{site.port}"
    assert refusal(f"http://{host}/a", [host]).reason == FetchReason.BAD_SCHEME


def test_a_redirect_to_credentials_or_another_port_is_refused(site, inside):
    host = f"media.example.org:{site.port}"
    site.pages["/a"] = redirect(f"http://me:word@{host}/b")
    site.pages["/b"] = redirect(f"http://media.example.org:{inside.port}/secret")
    assert refusal(f"http://{host}/a", [host]).reason == FetchReason.CREDENTIALS
    assert refusal(f"http://{host}/b", [host]).reason == FetchReason.PORT


PRIVATE = [
    "127.0.0.1",
    "169.254.169.254",
    "10.0.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::1]",
    "[fe80::1]",
    "[fd00::1]",
    "2130706433",  # the C library takes these for 127.0.0.1
    "017700000001",
    "0x7f000001",
    "0x7f.1",
    "127.1",
    "localhost",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_address_is_refused_even_where_its_name_is_allowed(site, inside, host):
    site.pages["/a"] = redirect(f"http://{host}:{inside.port}/secret")
    start = f"media.example.org:{site.port}"
    allowed = [start, f"{host}:{inside.port}"]
    for url in (f"http://{start}/a", f"http://{host}:{inside.port}/secret"):
        error = refusal(url, allowed)
        assert (error.reason, error.status) == (FetchReason.ADDRESS, 403)
        assert "127.0.0.1" not in error.message
    error = refusal(f"http://{start}/a", [start])
    assert error.reason == FetchReason.HOST
    assert host not in error.message
    assert inside.seen == []


def test_a_redirect_to_an_octal_address_is_refused(site, inside):
    site.pages["/a"] = redirect(f"http://0177.0.0.1:{inside.port}/secret")
    host = f"media.example.org:{site.port}"
    assert refusal(f"http://{host}/a", [host]).status == 502
    assert inside.seen == []


def test_one_private_address_among_public_ones_is_refused(site):
    async def mixed(host: str, port: int) -> list[str]:
        return [OUTSIDE, "10.0.0.1"]

    host = f"media.example.org:{site.port}"
    assert refusal(f"http://{host}/a", [host], resolve=mixed).reason == FetchReason.ADDRESS
    assert site.seen == []


def test_the_address_that_was_checked_is_the_one_connected_to(site, inside):
    """DNS rebinding: the name resolves to an internal address after the check."""
    answers = iter([[OUTSIDE], [INSIDE], [INSIDE]])

    async def moving(host: str, port: int) -> list[str]:
        return next(answers)

    rebound = Site(INSIDE, site.port)  # the same port at the address to which the name resolves next
    rebound.pages["/a"] = page(b"secret")
    for _ in serving(rebound):
        site.pages["/a"] = page(b"public")
        host = f"media.example.org:{site.port}"
        assert fetch(f"http://{host}/a", [host], resolve=moving) == b"public"
        assert rebound.seen == []
    assert next(answers) == [INSIDE]  # one look-up, no more


def test_each_redirect_is_resolved_and_checked_again(site):
    answers = iter([[OUTSIDE], ["10.0.0.1"]])

    async def moving(host: str, port: int) -> list[str]:
        return next(answers)

    site.pages["/a"] = redirect("/b")
    site.pages["/b"] = page(b"x")
    host = f"media.example.org:{site.port}"
    assert refusal(f"http://{host}/a", [host], resolve=moving).reason == FetchReason.ADDRESS
    assert [path for path, _ in site.seen] == ["/a"]


def test_an_address_that_accepts_no_connection_is_skipped(site):
    async def two(host: str, port: int) -> list[str]:
        return [CLOSED, OUTSIDE]

    site.pages["/a"] = page(b"x")
    host = f"media.example.org:{site.port}"
    either = {"resolve": two, "is_allowed_address": lambda address: True}
    assert fetch(f"http://{host}/a", [host], **either) == b"x"


@pytest.mark.parametrize("answer", [[], OSError("no such name"), UnicodeError("label too long")])
def test_a_name_without_an_address_fails(answer):
    async def none(host: str, port: int) -> list[str]:
        if isinstance(answer, Exception):
            raise answer
        return answer

    error = refusal("http://media.example.org/a", ["media.example.org"], resolve=none)
    assert (error.reason, error.status) == (FetchReason.FAILED, 502)


def test_a_label_too_long_for_dns_fails():
    error = refusal(f"http://{'a' * 80}.example.org/", ["*.example.org"], resolve=resolve_name)
    assert error.reason == FetchReason.FAILED


def test_a_closed_port_fails(site):
    host = f"media.example.org:{site.port}"
    site.server_close()
    assert refusal(f"http://{host}/a", [host]).status == 502


@pytest.mark.parametrize(
    "status,reason,http",
    [
        (404, "not_available", 400),
        (403, "not_available", 400),
        (429, "fetch_failed", 502),
        (500, "fetch_failed", 502),
        (206, "fetch_failed", 502),
        (204, "fetch_failed", 502),
        (304, "fetch_failed", 502),
        (302, "fetch_failed", 502),  # without a Location
    ],
)
def test_only_a_200_is_a_file(site, status, reason, http):
    site.pages["/a"] = page(b"" if status in (204, 304) else b"not for you", status)
    host = f"media.example.org:{site.port}"
    error = refusal(f"http://{host}/a", [host])
    assert (error.reason, error.status) == (reason, http)
    assert "not for you" not in error.message


def test_an_empty_file_is_refused(site):
    site.pages["/a"] = page(b"")
    host = f"media.example.org:{site.port}"
    error = refusal(f"http://{host}/a", [host])
    assert (error.reason, error.status) == (FetchReason.EMPTY, 400)


def test_a_file_of_just_the_limit_is_read(site):
    site.pages["/a"] = page(b"x" * LIMIT)
    site.pages["/b"] = page(b"x" * (LIMIT + 1))
    host = f"media.example.org:{site.port}"
    assert len(fetch(f"http://{host}/a", [host])) == LIMIT
    error = refusal(f"http://{host}/b", [host])
    assert (error.reason, error.status) == (FetchReason.TOO_LARGE, 413)


def test_an_endless_body_is_cut_off(site):
    hung_up = threading.Event()

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 4096)
        except OSError:
            hung_up.set()

    site.pages["/a"] = endless
    host = f"media.example.org:{site.port}"
    assert refusal(f"http://{host}/a", [host]).reason == FetchReason.TOO_LARGE
    assert hung_up.wait(10)


def test_a_wrong_content_length(site):
    host = f"media.example.org:{site.port}"
    site.pages["/huge"] = page(b"x", Content_Length=str(10**12))
    site.pages["/more"] = page(b"x" * 10, Content_Length="20")
    site.pages["/less"] = page(b"x" * 1000, Content_Length="10")
    site.pages["/none"] = page(b"x", Content_Length="-1")
    assert refusal(f"http://{host}/huge", [host]).reason == FetchReason.TOO_LARGE
    assert refusal(f"http://{host}/more", [host]).reason == FetchReason.FAILED
    assert fetch(f"http://{host}/less", [host]) == b"x" * 10  # RFC 9112 6.3: the body ends there
    assert refusal(f"http://{host}/none", [host]).reason == FetchReason.FAILED


def test_a_compressed_response_is_refused_and_never_decompressed(site):
    site.pages["/a"] = page(gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")
    host = f"media.example.org:{site.port}"
    error = refusal(f"http://{host}/a", [host])
    assert (error.reason, error.status) == (FetchReason.ENCODED, 502)


def test_what_is_not_http_fails(site):
    site.pages["/a"] = lambda handler: handler.wfile.write(b"220 mail.example.org ESMTP\r\n")
    site.pages["/b"] = lambda handler: handler.connection.close()
    host = f"media.example.org:{site.port}"
    for path in ("/a", "/b"):
        assert refusal(f"http://{host}{path}", [host]).reason == FetchReason.FAILED


def endless_header(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:  # until the client closes the connection
        handler.wfile.write(b"X-Wait: 1\r\n")
        time.sleep(0.1)


def endless_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.1)


def endless_redirect(handler: Handler) -> None:
    handler.answer(b"", 302, Location="/a")


@pytest.mark.parametrize("endless", [endless_header, endless_body, endless_redirect])
def test_one_deadline_for_the_whole_fetch(site, endless):
    """Each step is quick, but together they have no end."""
    site.pages["/a"] = endless
    host = f"media.example.org:{site.port}"
    error = refusal(f"http://{host}/a", [host], seconds=0.5, max_redirects=10**9)
    assert (error.reason, error.status) == (FetchReason.TIMEOUT, 504)


def test_the_deadline_includes_name_resolution():
    async def slow(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return [OUTSIDE]

    error = refusal("http://media.example.org/a", ["media.example.org"], resolve=slow, seconds=0.2)
    assert error.reason == FetchReason.TIMEOUT


@pytest.mark.parametrize("certified", ["media.example.org", "other.example.org"])
def test_tls_uses_and_checks_the_host_name(site, tmp_path, certified):
    certificate = self_signed(certified, tmp_path / "tls.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server_names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: server_names.append(name)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    site.pages["/a"] = page(CLIP)
    url, hosts = f"https://media.example.org.:{site.port}/a", [f"media.example.org:{site.port}"]
    trusted = ssl.create_default_context(cafile=str(certificate))
    if certified == "media.example.org":
        assert fetch(url, hosts, tls=trusted) == CLIP
        assert refusal(url, hosts).reason == FetchReason.FAILED  # not signed by a trusted authority
    else:
        assert refusal(url, hosts, tls=trusted).reason == FetchReason.FAILED
        assert site.seen == []
    assert set(server_names) == {"media.example.org"}


def self_signed(name: str, path):
    """Write a self-signed certificate for a name and its key into one file."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(pem))
    return path


@pytest.mark.parametrize(
    "url,data",
    [
        ("data:image/png;base64," + base64.b64encode(CLIP).decode(), CLIP),
        ("DATA:;BASE64,YQ==", b"a"),
        ("data:;base64,YWI%3D", b"ab"),
        ("data:;base64,%2B%2F%2b%2f", b"\xfb\xff\xbf"),
        ("data:video/mp4;codecs=avc1;base64,YWJj", b"abc"),
        ("data:,a%20b,c%00", b"a b,c\0"),
        ("data:text/plain;charset=utf-8,base64", b"base64"),
    ],
)
def test_data_urls(url, data):
    assert fetch(url) == data


@pytest.mark.parametrize(
    "payload",
    ["YQ", "YQ=", "Y", "YQ==YQ==", "Y Q==", "YWJj\n", "YW-_", "=YQ=", "YQ==%0A", "Ã=", "<png>", "%"],
)
def test_base64_is_strict(payload):
    error = refusal(f"data:image/png;base64,{payload}")
    assert (error.reason, error.status) == (FetchReason.BAD_DATA_URL, 400)
    assert "base64" in error.message


def test_percent_encoding_is_decoded_as_by_urllib():
    rng = random.Random(0)
    for _ in range(200):
        payload = "".join(
            rng.choice(["%41", "%3d", "%25", "%0A", "=", "=41", "_", "+", " ", "a"]) for _ in range(40)
        )
        assert fetch(f"data:,{payload}") == unquote_to_bytes(payload)


@pytest.mark.parametrize(
    "url", ["data:", "data:image/png;base64", "data:,ü", "data:,a%", "data:,%4", "data:,%%41"]
)
def test_invalid_data_urls(url):
    assert refusal(url).reason == FetchReason.BAD_DATA_URL


@pytest.mark.parametrize("url", ["data:,", "data:image/png;base64,"])
def test_an_empty_data_url(url):
    assert refusal(url).reason == FetchReason.EMPTY


def test_data_urls_have_the_same_limit():
    for size, fits in ((99, True), (100, True), (101, False), (10_000, False)):
        data = b"\xff" * size
        for url in (
            "data:;base64," + base64.b64encode(data).decode(),
            "data:;base64," + "".join(f"%{byte:02x}" for byte in base64.b64encode(data)),
            "data:," + "%ff" * size,
            "data:," + "a" * size,
        ):
            if fits:
                assert len(fetch(url, max_bytes=100)) == size
            else:
                assert refusal(url, max_bytes=100).status == 413
    # Refused by its length, before it is decoded.
    assert refusal("data:," + "ü" * 301, max_bytes=100).status == 413


@pytest.mark.parametrize(
    "address,public",
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::5db8:d822", True),  # 93.184.216.34
        ("2002:5db8:d822::1", True),
        ("64:ff9b::a00:1", False),  # 10.0.0.1
        ("64:ff9b:1::5db8:d822", False),  # a network's own NAT64
        ("2002:a9fe:a9fe::1", False),  # 169.254.169.254
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("172.16.0.1", False),
        ("ff02::1", False),
        ("ff0e::1", False),  # multicast of global scope
        ("fec0::1", False),
        ("fc00::1", False),
        ("fe80::1%eth0", False),
        ("2001:db8::1", False),
        ("2001:0:5db8:d822::1", False),  # Teredo
        ("100::1", False),
        ("::5db8:d822", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


def test_fetch_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(FetchError(FetchReason.TOO_LARGE, "make it smaller")))
    assert (error.reason, error.status, str(error)) == (FetchReason.TOO_LARGE, 413, "make it smaller")
