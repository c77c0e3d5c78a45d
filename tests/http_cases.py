"""Requests and answers, good and bad: as they go over the wire, and what is to be read from them.

They are read by themselves, in every way that bytes can come, and by a running server.
"""

from __future__ import annotations

import gzip
import zlib

MB = 1024**2

# --- requests ---------------------------------------------------------------------------------------------------------

GET = b"GET / HTTP/1.1\r\nHost: proxy\r\n"
POST = b"POST / HTTP/1.1\r\nHost: proxy\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

# What is no request, and the status and words of the refusal.
REFUSED: dict[str, tuple[bytes, int, str]] = {
    # the request line
    "one word": (b"nonsense\r\n\r\n", 400, "request line"),
    "four words": (b"GET / of HTTP/1.1\r\n\r\n", 400, "request line"),
    "two blanks": (b"GET  / HTTP/1.1\r\n\r\n", 400, "request line"),
    "a blank first": (b" GET / HTTP/1.1\r\n\r\n", 400, "well-formed"),
    "a method that is no word": (b"G(T / HTTP/1.1\r\n\r\n", 400, "request line"),
    "a method that never ends": (b"G" * 1000 + b" / HTTP/1.1\r\n\r\n", 400, "request line"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, "request line"),
    "a version that is none": (b"GET / HTTP/x\r\n\r\n", 400, "request line"),
    "a version in lower case": (b"GET / http/1.1\r\n\r\n", 400, "request line"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "HTTP/1.1"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "TLS"),
    "bytes": (b"\x00\xff\x00\xff", 400, "well-formed"),
    "two empty lines first": (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400, "request line"),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\n\r\n", 400, "request line"),
    "an escape in the target": (b"GET /\x1b[31m HTTP/1.1\r\n\r\n", 400, "request line"),
    "a letter beyond ASCII in the target": ("GET /ü HTTP/1.1\r\n\r\n".encode(), 400, "request line"),
    "a target that is too long": (b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, "8 KB"),
    "a relative target": (b"GET v1/messages HTTP/1.1\r\nHost: proxy\r\n\r\n", 400, "target"),
    "a target of another scheme": (b"GET ftp://proxy/ HTTP/1.1\r\nHost: proxy\r\n\r\n", 400, "target"),
    "a tunnel": (b"CONNECT api:443 HTTP/1.1\r\nHost: api\r\n\r\n", 400, "HTTPS_PROXY"),
    # line ends
    "a bare line feed in the request line": (b"GET / HTTP/1.1\nHost: proxy\r\n\r\n", 400, "CRLF"),
    "a bare line feed in a header": (GET + b"x: y\nz: y\r\n\r\n", 400, "CRLF"),
    "a bare carriage return": (GET + b"x: y\rz: y\r\n\r\n", 400, "header"),
    # headers
    "a folded header": (GET + b"x: y\r\n z\r\n\r\n", 400, "header"),
    "a folded first header": (b"GET / HTTP/1.1\r\n x: y\r\n\r\n", 400, "header"),
    "a blank before the colon": (GET + b"Content-Length : 3\r\n\r\nabc", 400, "header"),
    "no colon": (GET + b"header\r\n\r\n", 400, "header"),
    "no name": (GET + b": y\r\n\r\n", 400, "header"),
    "a name that is no word": (GET + b"x y: z\r\n\r\n", 400, "header"),
    "NUL in a header": (GET + b"x: \0\r\n\r\n", 400, "header"),
    "an escape in a header": (GET + b"x: \x1b[31m\r\n\r\n", 400, "header"),
    "DEL in a header": (GET + b"x: \x7f\r\n\r\n", 400, "header"),
    "too long a header": (GET + b"x: " + b"y" * 70_000 + b"\r\n\r\n", 431, "MAX_HEAD_KB"),
    "too long a head": (GET + b"x: yyyyyyyyyy\r\n" * 99 + b"y" * 65_000 + b": z\r\n\r\n", 431, "MAX_HEAD"),
    "too many headers": (GET + b"x: y\r\n" * 100 + b"\r\n", 431, "MAX_HEADERS"),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"),
    "two Hosts": (GET + b"Host: other\r\n\r\n", 400, "Host"),
    "an unknown expectation": (POST + b"Expect: 200-ok\r\nContent-Length: 3\r\n\r\n", 417, "100-continue"),
    # framing
    "a length and chunks": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "both"),
    "chunks and a length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, "both"),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, "Content-Length"),
    "the same length twice": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, "Content-Length"),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400, "Content-Length"),
    "a length in words": (POST + b"Content-Length: many\r\n\r\n", 400, "Content-Length"),
    "an empty length": (POST + b"Content-Length:\r\n\r\n", 400, "Content-Length"),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", 400, "Content-Length"),
    "a length with a sign": (POST + b"Content-Length: +3\r\n\r\nabc", 400, "Content-Length"),
    "a length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\n", 400, "Content-Length"),
    "a hexadecimal length": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400, "Content-Length"),
    "a length in digits of Unicode": (POST + b"Content-Length: \xb2\r\n\r\n", 400, "Content-Length"),
    "too large a length": (POST + b"Content-Length: %d\r\n\r\n" % (2 * MB + 1), 413, "2 MB"),
    "a length with more zeros than Python converts": (
        POST + b"Content-Length: " + b"0" * 5000 + b"9999999\r\n\r\n",
        413,
        "2 MB",
    ),
    "an absurd length": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413, "2 MB"),
    "another transfer encoding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400, "chunked"),
    "two transfer encodings": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "chunked"),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 400, "chunked"),
    "identity": (POST + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", 400, "both"),
    "chunked behind a vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "header"),
    "chunked and something": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, "chunked"),
    "an empty transfer encoding": (POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400, "chunked"),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "chunked"),
    # chunks
    "a chunk size in words": (CHUNKED + b"many\r\n", 400, "hexadecimal"),
    "an empty chunk size": (CHUNKED + b"\r\n", 400, "hexadecimal"),
    "a negative chunk size": (CHUNKED + b"-1\r\n", 400, "hexadecimal"),
    "a chunk size with a prefix": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400, "hexadecimal"),
    "a blank before a chunk size": (CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n", 400, "hexadecimal"),
    "an endless chunk size": (CHUNKED + b"0" * 17 + b"3\r\n", 400, "hexadecimal"),
    "a chunk size with a bare line feed": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400, "CRLF"),
    "an extension with a control character": (CHUNKED + b"3;\x1b\r\nabc\r\n0\r\n\r\n", 400, "hexadecimal"),
    "too long an extension": (CHUNKED + b"3;" + b"x" * 5000 + b"\r\n", 431, "extension"),
    "too many extensions": (CHUNKED + (b"1;" + b"x" * 1000 + b"\r\na\r\n") * 100, 431, "extensions"),
    "a chunk longer than its size": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400, "size"),
    "a chunk shorter than its size": (CHUNKED + b"4\r\nabc\r\n0\r\n\r\n", 400, "size"),
    "too large a chunk": (CHUNKED + b"%x\r\n" % (2 * MB + 1), 413, "2 MB"),
    "too much in all": (CHUNKED + (b"80000\r\n" + bytes(0x80000) + b"\r\n") * 5, 413, "2 MB"),
    "a size beyond 64 bits": (CHUNKED + b"f" * 16 + b"\r\n", 413, "2 MB"),
    "a trailer that is none": (CHUNKED + b"0\r\nnonsense\r\n\r\n", 400, "one of its lines is not a header"),
    "a folded trailer": (CHUNKED + b"0\r\nx: y\r\n z\r\n\r\n", 400, "one of its lines is not a header"),
    "too many trailers": (CHUNKED + b"0\r\n" + (b"x: " + b"y" * 1000 + b"\r\n") * 100, 431, "trailers"),
}

CUT_SHORT = {
    "request line": b"POST / HT",
    "header": POST + b"Content-Le",
    "end of the head": POST + b"Content-Length: 10\r\n",
    "body": POST + b"Content-Length: 10\r\n\r\nabc",
    "chunk size": CHUNKED + b"3",
    "chunk": CHUNKED + b"3\r\nab",
    "end of a chunk": CHUNKED + b"3\r\nabc\r",
    "last chunk": CHUNKED + b"3\r\nabc\r\n0\r\n",
    "trailer": CHUNKED + b"3\r\nabc\r\n0\r\nx: y\r\n",
}

BODIES: dict[str, tuple[bytes, bytes]] = {
    "none": (POST + b"\r\n", b"hello"),
    "a length": (POST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    "a length with zeros": (POST + b"Content-Length: 0003\r\n\r\nabc", b"abc"),
    "a length with more zeros than Python converts": (
        POST + b"Content-Length: " + b"0" * 5000 + b"3\r\n\r\nabc",
        b"abc",
    ),
    "blanks around a length": (POST + b"Content-Length: \t 3 \t\r\n\r\nabc", b"abc"),
    "of a GET": (GET + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    "no chunk": (CHUNKED + b"0\r\n\r\n", b"hello"),
    "chunks": (CHUNKED + b"3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
    "Chunked": (POST + b"Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "extensions": (CHUNKED + b'3;a;b=c;d="e;f"\r\nabc\r\n0 ; last\r\n\r\n', b"abc"),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nx: y\r\nContent-Length: 7\r\n\r\n", b"abc"),
    "chunks that look like chunks": (CHUNKED + b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    "gzip": (
        POST + b"Content-Encoding: GZip\r\nContent-Length: 23\r\n\r\n" + gzip.compress(b"abc", mtime=0),
        b"abc",
    ),
    "gzip in chunks": (
        CHUNKED[:-2] + b"Content-Encoding: gzip\r\n\r\n17\r\n" + gzip.compress(b"abc", mtime=0) + b"\r\n0\r\n\r\n",
        b"abc",
    ),
    "an encoding of nothing": (POST + b"Content-Encoding: gzip\r\n\r\n", b"hello"),
    "an empty line before": (b"\r\n" + POST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
}

# --- answers ----------------------------------------------------------------------------------------------------------

SECRET = b"Patient-4711"
BODY = b'{"content": "x"}'


def head(*lines: bytes, status: bytes = b"200 OK", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([version + b" " + status, *lines, b"", b""])


def sized(body: bytes, *lines: bytes, **options: bytes) -> bytes:
    return head(b"Content-Length: %d" % len(body), *lines, **options) + body


ANSWER_CHUNKED = b"Transfer-Encoding: chunked"

# What comes; the status and the body read from it, and whether the connection can be used again.
WHOLE: dict[str, tuple[bytes, int, bytes, bool]] = {
    "length": (sized(b"ok"), 200, b"ok", True),
    "length twice the same": (head(b"Content-Length: 2", b"content-length: 2, 2") + b"ok", 200, b"ok", True),
    "no reason": (sized(b"ok", status=b"200"), 200, b"ok", True),
    "a reason in any bytes": (sized(b"ok", status=b"200 \xff\x00"), 200, b"ok", True),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, b"ok", True),
    "folded header": (sized(b"ok", b"X: a", b" b"), 200, b"ok", True),
    "chunks": (head(ANSWER_CHUNKED) + b"1\r\no\r\n01\r\nk\r\n0\r\n\r\n", 200, b"ok", True),
    "chunks with extensions": (head(ANSWER_CHUNKED) + b"2;a=b\r\nok\r\n0;c\r\n\r\n", 200, b"ok", True),
    "chunks with trailers": (head(ANSWER_CHUNKED) + b"2\r\nok\r\n0\r\nX: y\r\n\r\n", 200, b"ok", True),
    "no chunks": (head(ANSWER_CHUNKED) + b"0\r\n\r\n", 200, b"", True),
    "chunks and a length": (head(ANSWER_CHUNKED, b"Content-Length: 9") + b"2\r\nok\r\n0\r\n\r\n", 200, b"ok", False),
    "to the end": (head() + b"ok", 200, b"ok", False),
    "close": (sized(b"ok", b"Connection: Keep-Alive, CLOSE"), 200, b"ok", False),
    "HTTP/1.0": (sized(b"ok", version=b"HTTP/1.0"), 200, b"ok", False),
    "no content": (head(status=b"204 No Content"), 204, b"", True),
    "more than was said": (sized(b"ok") + b"!", 200, b"ok", False),
    "twice": (sized(b"ok") * 2, 200, b"ok", False),
    "after a 100": (head(status=b"100 Continue") + sized(b"ok"), 200, b"ok", True),
    "after early hints": (head(b"Link: </x>", status=b"103 Early Hints") * 16 + sized(b"ok"), 200, b"ok", True),
    "gzip": (sized(gzip.compress(BODY), b"Content-Encoding: gzip"), 200, BODY, True),
    "x-gzip": (sized(gzip.compress(BODY), b"Content-Encoding: X-GZIP"), 200, BODY, True),
    "gzip in chunks": (
        head(ANSWER_CHUNKED, b"Content-Encoding: gzip") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(z := gzip.compress(BODY)), z),
        *(200, BODY, True),
    ),
    "deflate": (sized(zlib.compress(BODY), b"Content-Encoding: deflate"), 200, BODY, True),
    "deflate without its header": (
        sized(zlib.compress(BODY, wbits=-15), b"Content-Encoding: identity, deflate"),
        *(200, BODY, True),
    ),
    "identity": (sized(BODY, b"Content-Encoding: identity"), 200, BODY, True),
    "gzip of nothing": (sized(b"", b"Content-Encoding: gzip"), 200, b"", True),
}

NOT_COME, IN_HEAD, IN_BODY = "did not come: the connection was closed", "broke off in its head", "broke off in its body"
NO_HTTP, NO_CHUNKS, NO_LENGTH = "is not HTTP", "not chunked as it should be", "a length that is not one number"

# What comes, the words for it, and whether trying again would meet the same.
BROKEN: dict[str, tuple[bytes, str, bool]] = {
    "nothing": (b"", NOT_COME, False),
    "nothing after an announcement": (head(status=b"103 Early Hints"), NOT_COME, False),
    "a part of the status line": (b"HTTP/1.1 20", IN_HEAD, False),
    "a part of a header": (head()[:-2] + b"Content-Ty", IN_HEAD, False),
    "a head without its end": (head()[:-2], IN_HEAD, False),
    "no body": (head(b"Content-Length: 5"), IN_BODY, False),
    "half a body": (head(b"Content-Length: 5") + b"ab", IN_BODY, False),
    "a chunk too few": (head(ANSWER_CHUNKED) + b"2\r\nab\r\n", IN_BODY, False),
    "half a chunk": (head(ANSWER_CHUNKED) + b"5\r\nab", IN_BODY, False),
    "no end of the trailers": (head(ANSWER_CHUNKED) + b"2\r\nab\r\n0\r\n", IN_BODY, False),
    "half of a gzip": (sized(gzip.compress(BODY)[:-3], b"Content-Encoding: gzip"), IN_BODY, False),
    "another protocol": (b"SSH-2.0-OpenSSH_" + SECRET + b"\r\n", NO_HTTP, True),
    "a page without a head": (b"<html>" + SECRET, NO_HTTP, True),
    "an old version": (b"HTTP/0.9 200 OK\r\n\r\n", NO_HTTP, True),
    "a new version": (b"HTTP/2 200\r\n\r\n", NO_HTTP, True),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", NO_HTTP, True),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", NO_HTTP, True),
    "bytes in another order": (head()[::-1] + b"ok", NO_HTTP, True),
    "a byte too many before": (b"x" + head(), NO_HTTP, True),
    "a TLS alert": (bytes.fromhex("15030100020246"), "is TLS: the address must begin with https://", True),
    "a TLS handshake": (bytes.fromhex("160303007a0200"), "is TLS", True),
    "a change of protocol": (head(status=b"101 Switching Protocols"), "never gets beyond announcements", True),
    "announcements for ever": (head(status=b"100 Continue") * 99, "never gets beyond announcements", True),
    "a line that is no header": (head(SECRET), "has a head that cannot be read", False),
    "a blank before the colon": (head(b"Content-Length : 5"), "has a head that cannot be read", False),
    "a fold before any header": (head(b" " + SECRET), "has a head that cannot be read", False),
    "two lengths": (
        head(b"Content-Length: 2", b"Content-Length: 3") + b"abc",
        "a length that is not one number",
        False,
    ),
    "a list of lengths": (head(b"Content-Length: 2, 3") + b"abc", NO_LENGTH, False),
    "a negative length": (head(b"Content-Length: -2") + b"abc", NO_LENGTH, False),
    "a length in other digits": (head("Content-Length: ²".encode("latin-1")), NO_LENGTH, False),
    "a length in words": (head(b"Content-Length: " + SECRET), NO_LENGTH, False),
    "a length beyond bounds": (head(b"Content-Length: 99999999999999999999"), "is longer than 16 MB", True),
    "an unknown framing": (head(b"Transfer-Encoding: gzip, chunked"), "framed in a way", True),
    "chunked twice": (head(ANSWER_CHUNKED, ANSWER_CHUNKED), "framed in a way", True),
    "a chunk's size that is none": (head(ANSWER_CHUNKED) + b"zz\r\nab\r\n", NO_CHUNKS, False),
    "a negative chunk": (head(ANSWER_CHUNKED) + b"-2\r\nab\r\n", NO_CHUNKS, False),
    "a chunk's size as Python may write it": (head(ANSWER_CHUNKED) + b"0x2\r\nab\r\n", NO_CHUNKS, False),
    "a chunk longer than it says": (head(ANSWER_CHUNKED) + b"2\r\nabc\r\n0\r\n\r\n", NO_CHUNKS, False),
    "a chunk beyond bounds": (head(ANSWER_CHUNKED) + b"ffffffff\r\n", "is longer than 16 MB", True),
    "a chunk beyond any number": (head(ANSWER_CHUNKED) + b"f" * 20 + b"\r\n", NO_CHUNKS, False),
    "trailers that are none": (
        head(ANSWER_CHUNKED) + b"0\r\n" + SECRET + b"\r\n\r\n",
        "a body that cannot be read",
        False,
    ),
    "not the gzip it says": (sized(SECRET, b"Content-Encoding: gzip"), "compressed, and damaged", False),
    "not the deflate it says": (sized(b"\xff" * 9, b"Content-Encoding: deflate"), "compressed, and damaged", False),
    "an unknown compression": (sized(SECRET, b"Content-Encoding: br"), "asked for as it is", True),
    "a compression of a compression": (sized(SECRET, b"Content-Encoding: gzip, gzip"), "asked for as it is", True),
}
