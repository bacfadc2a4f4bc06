"""Decides which URLs no door may open: addresses inside in every spelling, and what two parsers read differently."""

from __future__ import annotations

from ipaddress import IPv4Address

PUBLIC = "93.184.216.34"

INSIDE = [
    "127.0.0.1",
    "127.8.9.10",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "192.0.2.1",
    "240.0.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
]


def spellings(address: str) -> list[str]:
    """Return an IPv4 address as a URL's host in the ways that some program or other reads as that address."""
    number = int(IPv4Address(address))
    octets = address.split(".")
    high, low = number >> 16, number & 0xFFFF
    words = f"{high:x}:{low:x}"
    return [
        address,
        str(number),
        f"0x{number:x}",
        f"0{number:o}",
        ".".join(f"0{int(octet):o}" for octet in octets),
        ".".join(f"0x{int(octet):x}" for octet in octets),
        ".".join(octet.zfill(3) for octet in octets[:3]) + f".{octets[3]}.",
        f"{octets[0]}.{number & 0xFFFFFF}",
        f"{octets[0]}.{octets[1]}.{low}",
        f"[::ffff:{address}]",
        f"[::ffff:{words}]",
        f"[0:0:0:0:0:FFFF:{words}]",
        f"[::{words}]",  # IPv4-compatible
        f"[64:ff9b::{words}]",  # NAT64
        f"[64:ff9b:1::{words}]",  # NAT64 of a network's own
        f"[2002:{words}::1]",  # 6to4
        f"[2001:0:4136:e378:8000:63bf:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}]",  # Teredo
        f"[2607:f8b0::5efe:{words}]",  # ISATAP within a public prefix
        f"[2607:f8b0::200:5efe:{words}]",
        f"[::ffff:0:{words}]",  # IPv4-translated
    ]


ODD = [
    "https://[::1]/",
    "https://[::]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fd20:ce::254]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[ff0e::1]/",
    "https://[2001:db8::1]/",
    "https://[2001:10::1]/",
    "https://[2001:20::1]/",
    "https://[2001:2::1]/",
    "https://[2002:7f00:1::]/",
    "https://[::7f00:1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[100::1]/",
    "https://[3fff::1]/",
    "https://[5f00::1]/",
    "https://[4000::1]/",
    "https://[::1",
    "https://::1/",
    "https://[127.0.0.1]/",
    "https://[]/",
    f"https://user@{PUBLIC}/",
    f"https://user:password@{PUBLIC}/",
    f"https://{PUBLIC}@127.0.0.1/",
    f"https://{PUBLIC}#@127.0.0.1/",
    f"https://{PUBLIC}\\@127.0.0.1/",
    f"https://127.0.0.1\\.{PUBLIC}/",
    f"https://{PUBLIC}:443@127.0.0.1/",
    f"https://{PUBLIC}/#fragment",
    f"https://{PUBLIC}/a b",
    f"https://{PUBLIC}/\r\nHost: 127.0.0.1",
    f"https://{PUBLIC}\r\n/",
    f"https://{PUBLIC}/\t",
    f"https://{PUBLIC}/\x00",
    f" https://{PUBLIC}/",
    f"https://{PUBLIC}/ ",
    f"https://{PUBLIC}:0/",
    f"https://{PUBLIC}:65536/",
    f"https://{PUBLIC}:99999999999/",
    f"https://{PUBLIC}:-1/",
    f"https://{PUBLIC}:0443/",
    f"https://{PUBLIC}:/",
    f"https://{PUBLIC}:80:80/",
    f"http://{PUBLIC}/",
    f"HTTP://{PUBLIC}/",
    f"https:/{PUBLIC}/",
    f"https:{PUBLIC}/",
    f"//{PUBLIC}/",
    f"https:\\\\{PUBLIC}/",
    f"ftp://{PUBLIC}/",
    f"gopher://{PUBLIC}:25/_MAIL",
    "file:///etc/passwd",
    "unix:///run/docker.sock",
    "data:text/plain,x",
    "javascript:alert(1)",
    "https://",
    "https:///path",
    "https://?x",
    "",
    "https://.",
    "https://..",
    "https://a..b/",
    "https://.a/",
    "https://a./",
    "https://localhost./",
    "https://%31%32%37.0.0.1/",
    "https://%6cocalhost/",
    "https://1.2.3/",
    "https://1.2.3.4.5/",
    "https://256.1.1.1/",
    "https://0x/",
    "https://a.0x7f/",
    "https://１２７.0.0.1/",
    "https://ⓛocalhost/",
    "https://127。0。0。1/",
    "https://bücher.example/",
    "https://a\u200b.example/",
    "https://a\u202e.example/",
    "https://" + "a" * 2050 + "/",
]
HOSTILE = [f"https://{host}/hook" for address in INSIDE for host in spellings(address)] + ODD
