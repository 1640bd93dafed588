"""Fetch the URLs of a request, only from hosts that the operator has allowed.

    fetcher = Fetcher(["media.example.org", "*.cdn.example.org", "files.example.org:8443"], max_bytes=..., seconds=...)
    data = await fetcher.fetch("data:image/png;base64,...")

A server that fetches URLs for its clients could be made to send requests into its own network
(server-side request forgery). So the host must be on the allow-list and every address it resolves
to must be public, for the first URL and for every redirect. The connection goes to an address that
was checked, because a second DNS look-up could return another one.
"""

import asyncio
import binascii
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from enum import StrEnum
from typing import NamedTuple

import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_STANDARD_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291 section 2.4 as allocated so far
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NOT_A_HOST = re.compile(r"[\s/?#@*\\%]")


class FetchReason(StrEnum):
    """Why a URL was not read; the `code` of the error reply."""

    BAD_URL = "bad_url"
    BAD_SCHEME = "scheme_not_allowed"
    CREDENTIALS = "credentials_in_url"
    BAD_DATA_URL = "bad_data_url"
    EMPTY = "empty"
    NOT_AVAILABLE = "not_available"  # the host answered 4xx
    HOST = "host_not_allowed"
    PORT = "port_not_allowed"
    ADDRESS = "address_not_allowed"
    TOO_LARGE = "too_large"
    REDIRECTS = "too_many_redirects"
    ENCODED = "encoded_answer"
    FAILED = "fetch_failed"
    TIMEOUT = "timeout"


_STATUS = {
    FetchReason.HOST: 403,
    FetchReason.PORT: 403,
    FetchReason.ADDRESS: 403,
    FetchReason.TOO_LARGE: 413,
    FetchReason.REDIRECTS: 502,
    FetchReason.ENCODED: 502,
    FetchReason.FAILED: 502,
    FetchReason.TIMEOUT: 504,
}


class FetchError(Exception):
    """A URL was not read.

    message: for the client that sent the URL. It contains neither addresses nor the targets of
    redirects, because those may be inside the network of the server.
    """

    def __init__(self, reason: FetchReason, message: str) -> None:
        super().__init__(reason, message)  # both arguments, so that the error can be pickled
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message

    @property
    def status(self) -> int:
        """The HTTP status of the error reply."""
        return _STATUS.get(self.reason, 400)


class _Rule(NamedTuple):
    """One entry of the allow-list. port: None means the standard port of the scheme."""

    host: str
    subdomains: bool
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> "_Rule":
        """Parse `name`, `*.name`, `address` or `[address]`, with or without `:port`.

        Raises ValueError.
        """
        name = entry.removeprefix("*.")
        try:
            url = httpx.URL(f"any://{name}")
            host = _host_of(url)
        except (httpx.InvalidURL, ValueError):
            host = ""
        if not host or _NOT_A_HOST.search(name) or (url.port is not None and not 0 < url.port < 1 << 16):
            raise ValueError(
                f"allowed host {entry!r}: give a name (media.example.org), all names below one "
                "(*.example.org), or either with a port (media.example.org:8443)"
            )
        return cls(host, name != entry, url.port)

    def admits_host(self, host: str) -> bool:
        """Return whether the rule allows a host, which must be normalized by `_host_of`."""
        return host.endswith(f".{self.host}") if self.subdomains else host == self.host

    def admits_port(self, url: httpx.URL) -> bool:
        """Return whether the rule allows the port of a URL: its own port, or else the standard one
        of the scheme.
        """
        return url.port == self.port if self.port is None else _port_of(url) == self.port


def is_public(address: Address) -> bool:
    """Return whether an address is global unicast.

    An IPv6 address that embeds an IPv4 address is judged by that.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address in _GLOBAL_UNICAST and address.is_global


async def resolve_name(host: str, port: int) -> list[str]:
    """Return all addresses to which the system resolves a host name. Raises OSError."""
    loop = asyncio.get_running_loop()
    entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in entries]


class Fetcher:
    """Fetches data: URLs, and http(s) URLs of allowed hosts.

    Any number of tasks may use it at the same time.

    hosts: the allow-list, with entries `name` or `*.name` (all subdomains, but not the name
    itself), each with `:port` or for the standard ports. max_bytes: of the content of a URL.
    seconds: for one URL with all its redirects. resolve: returns the addresses of a host and port.
    is_allowed_address: must be true for every address. tls: the trusted certificates; None means
    the default ones. Raises ValueError for an invalid entry of `hosts`.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        max_bytes: int,
        seconds: float,
        max_redirects: int = 3,
        resolve: Resolve = resolve_name,
        is_allowed_address: Callable[[Address], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = [_Rule.parse(entry) for entry in hosts]
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._max_redirects = max_redirects
        self._resolve = resolve
        self._is_allowed_address = is_allowed_address
        self._tls = tls or httpx.create_ssl_context()

    async def fetch(self, url: str) -> bytes:
        """Return the content of a URL, which is at least one byte. Raises FetchError."""
        try:
            async with asyncio.timeout(self._seconds):
                if url[:5].lower() == "data:":
                    # In a thread, because decoding a large URL would block the event loop.
                    data = await asyncio.to_thread(read_data_url, url, self._max_bytes)
                else:
                    data = await self._follow(url)
        except TimeoutError:
            raise FetchError(
                FetchReason.TIMEOUT,
                f"the URL was not read within {self._seconds:g} s; use a faster host or send the file itself",
            ) from None
        if not data:
            raise FetchError(
                FetchReason.EMPTY, "the URL gives 0 bytes; check that it names a picture or video"
            )
        return data

    async def _follow(self, text: str) -> bytes:
        """Follow redirects, each of which is checked like the first URL, and return the final body."""
        what = "the URL"
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, ValueError) as error:
            raise FetchError(FetchReason.BAD_URL, f"this is no URL: {error}; check its spelling") from None
        for _ in range(self._max_redirects + 1):
            url = self._checked(url, what)
            result = await self._get(url, await self._addresses(url, what), what)
            if isinstance(result, bytes):
                return result
            what = "a redirect of the URL"
            try:
                url = url.join(result)
            except (httpx.InvalidURL, ValueError):
                raise FetchError(
                    FetchReason.FAILED, "the URL is redirected to something that is no URL"
                ) from None
        raise FetchError(
            FetchReason.REDIRECTS,
            f"the URL is redirected more than {self._max_redirects} times; give the final one",
        )

    def _checked(self, url: httpx.URL, what: str) -> httpx.URL:
        """Return the URL with its host normalized. Raises FetchError if the URL is not allowed."""
        if url.scheme not in _STANDARD_PORTS:
            raise FetchError(
                FetchReason.BAD_SCHEME,
                f"{what} has the scheme {url.scheme[:20]!r}; only http, https and data URLs are read: send "
                "the file itself as data:<type>;base64,<bytes>",
            )
        if url.userinfo:
            raise FetchError(FetchReason.CREDENTIALS, f"{what} holds a user name or password; take it out")
        host = _host_of(url)
        if not host:
            raise FetchError(FetchReason.BAD_URL, f"{what} names no host; give http(s)://host/path")
        # The client must not learn where a redirect leads.
        named = f"{what} names {host[:253]!r}, which" if what == "the URL" else f"{what} leads to a host that"
        rules = [rule for rule in self._rules if rule.admits_host(host)]
        if not rules:
            raise FetchError(
                FetchReason.HOST,
                f"{named} is not an allowed host; send the file itself as data:<type>;base64,<bytes>, or "
                "have the host added to the server's allow-list",
            )
        if not any(rule.admits_port(url) for rule in rules):
            raise FetchError(FetchReason.PORT, f"{named} is not allowed at this port; use the standard one")
        return url.copy_with(host=host)

    async def _addresses(self, url: httpx.URL, what: str) -> list[Address]:
        """Return all addresses of the host of a URL.

        Raises FetchError unless every address is allowed.
        """
        try:
            resolved = await self._resolve(_host_of(url), _port_of(url))
            addresses = [ipaddress.ip_address(address) for address in dict.fromkeys(resolved)]
        except (OSError, ValueError):  # a UnicodeError is a ValueError: a label is too long
            addresses = []
        if not addresses:
            raise FetchError(FetchReason.FAILED, f"the host of {what} has no address; check its spelling")
        if not all(self._is_allowed_address(address) for address in addresses):
            raise FetchError(
                FetchReason.ADDRESS,
                f"the host of {what} is not at a public address; send the file itself as a data: URL",
            )
        return addresses

    async def _get(self, url: httpx.URL, addresses: Sequence[Address], what: str) -> bytes | str:
        """Return the body, or the target of a redirect, from the first address that accepts a
        connection.
        """
        share = self._seconds / len(addresses)  # an address that drops packets must not use up all the time
        for address in addresses:
            try:
                return await self._request(url, address, share, what)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except httpx.HTTPError as error:
                raise FetchError(
                    FetchReason.FAILED,
                    f"the host of {what} closed the connection or did not speak HTTP ({type(error).__name__}); try "
                    "again, or send the file itself as a data: URL",
                ) from None
        raise FetchError(
            FetchReason.FAILED,
            f"the host of {what} accepts no connection, or its certificate is not valid; try again later",
        )

    async def _request(self, url: httpx.URL, address: Address, patience: float, what: str) -> bytes | str:
        """Send the request to one address.

        patience: seconds to connect. Raises FetchError or httpx.HTTPError.
        """
        request = httpx.Request(
            "GET",
            url.copy_with(host=str(address), fragment=None),
            headers={
                "Host": url.netloc.decode("ascii"),
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                "Connection": "close",
                "User-Agent": "gve_ray",
            },
            # TLS checks the certificate against the host name and not against the address.
            extensions={"sni_hostname": _host_of(url), "timeout": {"connect": patience}},
        )
        # The transport without a client: it uses no proxies and no cookies, decompresses nothing
        # and follows no redirects. A new one for each request, so that a connection is never shared
        # between host names.
        async with (
            httpx.AsyncHTTPTransport(verify=self._tls) as transport,
            aclosing(await transport.handle_async_request(request)) as response,
        ):
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return response.headers["location"]
            return await self._body(response, what)

    async def _body(self, response: httpx.Response, what: str) -> bytes:
        status = response.status_code
        if 400 <= status < 500 and status != 429:
            raise FetchError(
                FetchReason.NOT_AVAILABLE, f"the host of {what} answered {status}; check that it is public"
            )
        if status != 200:
            raise FetchError(
                FetchReason.FAILED,
                f"the host of {what} answered {status}; try again, or send the file itself",
            )
        coding = response.headers.get("content-encoding", "identity")
        if coding.strip().lower() not in ("", "identity"):
            raise FetchError(
                FetchReason.ENCODED,
                f"the host of {what} sends the file with Content-Encoding although it was asked not to; send "
                "the file itself as a data: URL",
            )
        stated = response.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > self._max_bytes:
            raise _too_large(self._max_bytes)
        parts: list[bytes] = []
        room = self._max_bytes
        async for part in response.aiter_raw():
            room -= len(part)
            if room < 0:
                raise _too_large(self._max_bytes)
            parts.append(part)
        return b"".join(parts)


def read_data_url(url: str, max_bytes: int) -> bytes:
    """Return the content of a data: URL (RFC 2397), in base64 or percent-encoded.

    Raises FetchError.
    """
    head, comma, payload = url[len("data:") :].partition(",")
    if not comma:
        raise FetchError(
            FetchReason.BAD_DATA_URL, "the data: URL has no comma; write data:<type>;base64,<bytes>"
        )
    is_base64 = head.rstrip().lower().endswith(";base64")
    limit = 4 * ((max_bytes + 2) // 3) if is_base64 else max_bytes  # characters after unescaping
    if len(payload) > 3 * limit:
        raise _too_large(max_bytes)
    try:
        data = _unescaped(payload.encode("ascii"))
        if len(data) > limit:
            raise _too_large(max_bytes)
        if is_base64:
            data = binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:  # includes binascii.Error and UnicodeEncodeError
        why = "characters beyond ASCII" if isinstance(error, UnicodeError) else str(error)
        raise FetchError(
            FetchReason.BAD_DATA_URL,
            f"the data: URL is damaged ({why}); write data:<type>;base64,<bytes> in standard base64 "
            "(A-Z a-z 0-9 + /), padded with =, without line breaks",
        ) from None
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


def _unescaped(payload: bytes) -> bytes:
    """Decode percent-encoding.

    Raises ValueError for a % that is not followed by two hexadecimal digits.
    """
    if b"%" not in payload:
        return payload
    if _BAD_ESCAPE.search(payload):
        raise ValueError("a % without two hexadecimal digits")
    # Quoted-printable differs only in its escape character. urllib would create an object for each
    # escape.
    return binascii.a2b_qp(payload.replace(b"=", b"=3D").replace(b"%", b"="))


def _too_large(max_bytes: int) -> FetchError:
    return FetchError(
        FetchReason.TOO_LARGE,
        f"the URL gives more than {max_bytes} bytes, which is the limit; make it smaller",
    )


def _host_of(url: httpx.URL) -> str:
    """Return the normalized host: lower case, IDNA, without a trailing dot, IPv6 in its shortest
    form.
    """
    host = url.raw_host.decode("ascii").removesuffix(".")
    return str(ipaddress.IPv6Address(host)) if ":" in host else host


def _port_of(url: httpx.URL) -> int:
    return url.port or _STANDARD_PORTS[url.scheme]
