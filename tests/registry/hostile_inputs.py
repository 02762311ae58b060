"""What registries that mean harm may send, where it can be listed."""

HEX = "0123456789abcdef" * 4

# What a digest is not: paths, other lengths, other digits, other kinds, other types.
DIGESTS: list[object] = [
    *("../../../../tmp/pwn", "sha256:../../../tmp/pwn", "/tmp/pwn", "../../outside/pwn", "sha256:", ""),
    *(f"sha256:{HEX[:63]}", f"sha256:{HEX}0", f"sha256:{HEX}\n", f"sha256:{HEX}\0", f" sha256:{HEX}"),
    *("sha256:" + "０" * 64, "sha256:" + "٠" * 64, "sha256:" + "g" * 64),
    *(f"SHA256:{HEX}", f"sha256:{HEX.upper()}", f"sha512:{HEX * 2}"),
    *("sha256-..%2f..%2fx", f"sha256:{HEX[:60]}/../x", f"sha256:{HEX[:-3]}..x"),
    *(None, 123, 1.5, True, [], {}, ["sha256:" + HEX]),
]

LAYER_KINDS = [
    *("tensor", "model", "adapter", "projector", "template", "license", "params", "json", "draft", "embed"),
    "unheard-of",
]

# What is written in the place of a size, as JSON or nearly so.
SIZES = [
    *("0", "-1", '"1"', "1.5", "1e400", "1e3", str(2**63), str(2**64), "9" * 5000, "-0.0"),
    *("null", "[]", "{}", "true", "NaN", "Infinity"),
]

# Answers 401 with these in WWW-Authenticate. {canary} and {other} are servers that must not be asked.
CHALLENGES = [
    'Bearer realm="http://{canary}/token",service="s",scope="x"',
    'Bearer realm="https://{canary}/token",service="s",scope="x"',
    'Bearer realm="http://{host}:1/token",service="s"',
    'Bearer realm="http://{host}:{other}/token",service="s"',
    'Bearer realm="http://{address}@{canary}/",service="s"',
    'Bearer realm="http://{canary}#@{address}/",service="s"',
    'Bearer realm="http://{canary}\\@{address}/",service="s"',
    'Bearer realm="http://{address}.{canary}/",service="s"',
    'Bearer realm="http://{host}.:{port}/token",service="s"',
    'Bearer realm="gopher://{address}/token",service="s"',
    'Bearer realm="file:///etc/passwd",service="s"',
    'Bearer realm="//{canary}/token",service="s"',
    'Bearer realm="/token",service="s"',
    'Bearer realm="token",service="s"',
    'Bearer realm="",service="s"',
    'Bearer service="s",scope="x"',
    "Bearer",
    "",
    'Bearer realm="http://{address}/token',
    'Bearer realm="http://{address}/token\\',
    'Bearer realm=,service=,,,,=,"',
    'Bearer realm="http://{address}/token?' + "x" * 1_000_000 + '"',
    "Bearer " + "," * 100_000,
    "Bearer " + 'a="\\' * 20_000,
    'Bearer realm="http://{canary}/a", realm="http://{address}/b"',
    'Bearer realm="http://{address}/b", realm="http://{canary}/a"',
    "Negotiate",
    "Basic",
    'Digest realm="{address}"',
    "\x01\x02",
]

# Where a redirect must not lead.
LOCATIONS = [
    *("http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:6379/", "https://127.0.0.1:6379/"),
    *("http://[::1]/", "http://[::ffff:127.0.0.1]/", "https://[fe80::1]/", "https://[fd00:ec2::254]/"),
    *("http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "http://0/"),
    *("https://0.0.0.0/", "https://10.0.0.1/", "https://224.0.0.1/", "https://255.255.255.255/"),
    *("http://localhost/", "https://localhost/", "http://localtest.me/", "https://localtest.me/"),
    *("gopher://127.0.0.1/", "file:///etc/passwd", "ftp://127.0.0.3/", "data:text/plain,x", "javascript:x"),
    *("//127.0.0.3/x", "///x", "http:///x", "https://user@127.0.0.3/", "https://100.100.100.200/"),
    *("http://\x01/", "http://a b/", "", "https://" + "a" * 100_000 + "/", "https://["),
    "http://%31%32%37.0.0.1/",
]

# Hosts in a model's name that lead to where no registry is, whatever the user allows; and those that do
# so without leave.
HOSTS = [
    *("169.254.169.254", "0", "0.0.0.0", "224.0.0.1", "metadata.google.internal", "2130706433", "0x7f.1"),
    "[::1]:11434",
]
PRIVATE_HOSTS = [
    *("127.0.0.1:22", "localhost", "10.0.0.1", "foo.internal", "192.168.1.1:5000"),
    *("http://127.0.0.1:22", "http://localhost"),
]

# First bytes of an answer that are no head of one, or of one that has no end.
HEADS = [
    *(
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 99 x\r\n\r\n",
        b"HTTP/1.1 1000 x\r\n\r\n",
        b"HTTP/9.9 200 x\r\n\r\n",
    ),
    *(b"220 ftp ready\r\n", b"SSH-2.0-x\r\n", b"\0" * 1000, b"\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n"),
    b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 x\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
    b"HTTP/1.1 200 x\r\nA: " + b"b" * 9_000_000,
    b"HTTP/1.1 200 x\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 x\r\nContent-Length: x\r\n\r\n",
    b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nx",
    b"HTTP/1.1 100 x\r\n\r\n" * 9,
]

# Content-Range of an answer 206 to whatever was asked of a blob of 22000 bytes.
RANGES = [
    *("", "bytes 0-4/5", "bytes 1-21999/22000", "bytes 0-21999/5", "bytes */22000", "bytes 0-/22000"),
    *("bytes -1-4/22000", "items 0-4/22000", "bytes 4-0/22000", "bytes 0-21999/*, bytes 0-1/2"),
    "bytes 0-99999999999999999999999/22000",
]

# What is no manifest of a model.
MANIFESTS = [
    *(b"", b"null", b"[]", b"{}", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"\0" * 100),
    *(b'{"schemaVersion":2}', b'{"schemaVersion":2,"layers":null,"config":null}', b"<html>text-of-the-reply"),
    b'{"schemaVersion":2,"mediaType":"x","config":{},"layers":[null]}',
    b'{"schemaVersion":2,"mediaType":"x","config":{},"layers":[' + b"{}," * 100_000 + b"{}]}",
    b" " * (4 << 20) + b"{}",
]

# What is no answer of a token server.
TOKENS = [
    *(b"", b"{}", b"[]", b"null", b'{"token":null}', b'{"token":5}', b'{"token":""}', b'{"token":"a b"}'),
    *(b'{"token":"a\\r\\nX: y"}', b'{"token":"\\u00e9"}', b'{"token":"\\u0000"}', b"{" * 10_000),
    b'{"token":"' + b"x" * 100_000 + b'"}',
]

# What is no name of a model.
NAMES = [
    *("../../../etc/passwd", "a/../../b", "..", ".", "a/b/c/d/e", "a" * 81, "h/n/m:..", "m\0", "%2e%2e%2fx"),
    *("a\\b", "CON", "nul.txt", "x.", "x ", "m:tag::$DATA", "😀", "m:", ":t", "/m", "n//m", "m:t:u", "", " "),
    *("http://", "ftp://h/n/m", "m@sha256:" + HEX, "h/n/" + "m" * 81, "h/n/m:" + "t" * 81),
]
