"""Captures made byte by byte, so that each test says what is in its file; and a web server to download from."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

Packet = tuple[float, bytes]


def ip_packet(
    src: int,
    dst: int,
    sport: int,
    dport: int,
    *,
    protocol: int = 17,
    payload: int = 20,
    flags: int = 0x02,
    padding: int = 0,
) -> bytes:
    """Ethernet + IPv4 + UDP or TCP, `payload` zero bytes; hosts are the last byte of 10.0.0.0/24."""
    if protocol == 6:
        inner = struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 5 << 4, flags, 8192, 0, 0)
    else:
        inner = struct.pack(">HHHH", sport, dport, 8 + payload, 0)
    inner += bytes(payload)
    head = struct.pack(">BBHHHBBH4B4B", 0x45, 0, 20 + len(inner), 1, 0, 64, protocol, 0, 10, 0, 0, src, 10, 0, 0, dst)
    return bytes(12) + b"\x08\x00" + head + inner + bytes(padding)


def arp_packet() -> bytes:
    return b"\xff" * 6 + bytes(6) + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + bytes(20) + bytes(18)


def pcap_bytes(packets: Iterable[Packet], *, order: str = "<", nano: bool = False, snaplen: int = 65535) -> bytes:
    ticks = 1_000_000_000 if nano else 1_000_000
    out = [struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snaplen, 1)]
    for when, data in packets:
        seconds, fraction = divmod(round(when * ticks), ticks)
        kept = data[:snaplen]
        out.append(struct.pack(order + "IIII", seconds, fraction, len(kept), len(data)) + kept)
    return b"".join(out)


def pcapng_bytes(packets: Iterable[Packet], *, order: str = "<", nano: bool = False) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        length = struct.pack(order + "I", 12 + len(body))
        return struct.pack(order + "I", kind) + length + body + length

    options = struct.pack(order + "HHB3xHH", 9, 1, 9, 0, 0) if nano else b""
    out = [
        block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(1, struct.pack(order + "HHI", 1, 0, 65535) + options),
    ]
    for when, data in packets:
        stamp = round(when * (1_000_000_000 if nano else 1_000_000))
        head = struct.pack(order + "IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(data), len(data))
        out.append(block(6, head + data))
    return b"".join(out)


@pytest.fixture(scope="session")
def conversation() -> list[Packet]:
    """Twelve UDP packets of three conversations, and one ARP request, over ten seconds."""
    start = 1_767_600_000.0
    packets = [(start, arp_packet())]
    for flow in range(3):
        for i in range(4):
            there = i % 2 == 0
            ends = (1, 2 + flow, 5000 + flow, 53) if there else (2 + flow, 1, 53, 5000 + flow)
            packets.append((start + flow * 3 + i * 0.25, ip_packet(*ends, payload=20 if there else 100)))
    return packets


@pytest.fixture
def make_capture(tmp_path: Path) -> Callable[..., Path]:
    """Writes packets (or bytes) to a file: `make_capture(packets, kind="pcap", order="<", nano=False)`."""

    def make(content: bytes | list[Packet], name: str = "made.pcap", *, kind: str = "pcap", **options: object) -> Path:
        path = tmp_path / name
        if not isinstance(content, bytes):
            content = (pcap_bytes if kind == "pcap" else pcapng_bytes)(content, **options)  # type: ignore[arg-type]
        path.write_bytes(content)
        return path

    return make


@pytest.fixture(scope="session")
def packet() -> Callable[..., bytes]:
    return ip_packet


@pytest.fixture(scope="session")
def pcap_content() -> Callable[..., bytes]:
    return pcap_bytes


class Source:
    """A web server on loopback that serves one file, well or badly; each attribute is one way to be bad.

    Requests are kept in `asked`, (path, headers) each. `answers` are used up first, one for each request.
    """

    def __init__(self, server: ThreadingHTTPServer, scheme: str = "http") -> None:
        self.base = f"{scheme}://127.0.0.1:{server.server_address[1]}"
        self.url = f"{self.base}/data.zip"
        self.content = b"PK\x03\x04" + random.Random(7).randbytes(300_000)
        self.etag = '"one"'
        self.kind = "application/zip"
        self.ranges = self.if_range = self.length = True
        self.chunked = False
        self.announce: int | None = None  # instead of the true length
        self.shift = 0  # bytes that a partial answer begins too early
        self.cut: int | None = None  # the connection ends after so many bytes of a body
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append((handler.path, {key.lower(): value for key, value in handler.headers.items()}))
        if self.answers:
            self.answers.pop(0)(handler)
            return
        start = self._start(handler)
        if start is not None and start >= len(self.content):
            self.refuse(416)(handler)
            return
        body = self.content[max((start or 0) - self.shift, 0) :]
        handler.send_response(200 if start is None else 206)
        handler.send_header("Content-Type", self.kind)
        if self.etag:
            handler.send_header("ETag", self.etag)
        if start is not None:
            size = len(self.content)
            handler.send_header("Content-Range", f"bytes {start - self.shift}-{size - 1}/{size}")
        if self.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        elif self.length:
            handler.send_header("Content-Length", str(len(body) if self.announce is None else self.announce))
        handler.end_headers()
        body = body if self.cut is None else body[: self.cut]
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if self.chunked else body)
        handler.close_connection = True

    def _start(self, handler: BaseHTTPRequestHandler) -> int | None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        fits = not self.if_range or handler.headers.get("If-Range", self.etag) == self.etag
        return int(asked[1]) if asked and self.ranges and fits else None

    @staticmethod
    def refuse(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
        """An answer without a file."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return answer

    @staticmethod
    def endless(status: int, block: bytes = bytes(65536), pause: float = 0.0, **headers: str) -> Callable[..., None]:
        """An answer whose chunked body ends when nobody listens any longer."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in (headers | {"Transfer_Encoding": "chunked"}).items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
                    time.sleep(pause)
            handler.close_connection = True

        return answer

    @staticmethod
    def silent(handler: BaseHTTPRequestHandler) -> None:
        """No answer at all, for as long as the other side waits."""
        with contextlib.suppress(OSError):
            handler.connection.recv(1)
        handler.close_connection = True


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Source]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                source.answer(self)

        def log_message(self, *words: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    source = Source(server, "https" if tls else "http")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield source
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """A web server of the test's own; no proxy of the surroundings is asked."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as server:
        yield server


@pytest.fixture
def secure_source(tmp_path: Path) -> Iterator[tuple[Source, Path]]:
    """The same over TLS, and the certificate that it shows."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, secret = tmp_path / "certificate.pem", tmp_path / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    with serving(context) as server:
        yield server, pem
