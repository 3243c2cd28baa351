"""What a hostile guest sends past its policy, which allows {to4} at port 7001 alone. It prints what it reached; the frames have titles
behind their payload that begin with `own` where they may arrive, and with `BAD` where not."""
import socket
import struct

TO, TO6 = "{to4}", "{to6}"


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def reach(title, family, kind, address):
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(5)
            s.connect(address)
            s.send(b"hello")
            s.recv(1)
            print("REACHED", title)
    except OSError as error:
        print("refused", title, type(error).__name__)


reach("allowed", socket.AF_INET, socket.SOCK_STREAM, (TO, 7001))
reach("other port", socket.AF_INET, socket.SOCK_STREAM, (TO, 7002))
reach("IPv6", socket.AF_INET6, socket.SOCK_STREAM, (TO6, 7001))
reach("DNS of its own", socket.AF_INET, socket.SOCK_DGRAM, (TO, 53))
reach("the host", socket.AF_INET, socket.SOCK_STREAM, ("{box4}", 22))

OWN = mac(open("/sys/class/net/eth0/address").read().strip())
routes = [line.split() for line in open("/proc/net/route")][1:]
gateway = next(socket.inet_ntoa(struct.pack("<I", int(r[2], 16))) for r in routes if r[1] == "00000000")
GATE = next(mac(line.split()[3]) for line in open("/proc/net/arp") if line.startswith(gateway + " "))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.connect((TO, 7001))
    ADDRESS = s.getsockname()[0]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))


def frame(kind, payload, source=OWN, to=GATE):
    raw.send(to + source + struct.pack("!H", kind) + payload)


def ipv4(payload, to=TO, source=None, protocol=17, options=b"", flags=0):
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, 4 * words + len(payload), 77, flags, 64, protocol, 0,
                       socket.inet_aton(source or ADDRESS), socket.inet_aton(to)) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(port, title):
    text = ("<%s>" % title).encode()
    return struct.pack("!HHHH", 4000, port, 8 + len(text), 0) + text


def ipv6(payload, to):
    return struct.pack("!IHBB", 0x60000000, len(payload), 17, 64) + socket.inet_pton(socket.AF_INET6, "fd77::9") + \
        socket.inet_pton(socket.AF_INET6, to) + payload


frame(0x0800, ipv4(udp(7001, "own first")))
frame(0x0800, ipv4(udp(7002, "BAD port")))
frame(0x0800, ipv4(udp(53, "BAD DNS")))
frame(0x0800, ipv4(udp(7001, "BAD source"), source="{box4}"))
frame(0x0800, ipv4(udp(7001, "BAD hardware")), source=mac("02:00:00:00:00:99"))
frame(0x0800, ipv4(b"<BAD protocol>", protocol=253))
frame(0x0800, ipv4(ipv4(udp(7001, "BAD tunnel")), protocol=4))
frame(0x0800, ipv4(udp(7001, "BAD broadcast"), to="255.255.255.255"))
frame(0x0800, ipv4(udp(7001, "BAD multicast"), to="224.0.0.1"))
# By way of the gateway to the one that is allowed, as the packet itself says.
frame(0x0800, ipv4(udp(7002, "BAD route"), to=gateway, options=bytes([131, 7, 4]) + socket.inet_aton(TO) + b"\0"))
# The port is in the first piece, the text in the second.
whole = udp(7002, "BAD fragments" + "." * 32)
frame(0x0800, ipv4(whole[:8], flags=0x2000))
frame(0x0800, ipv4(whole[8:], flags=1))
frame(0x86dd, ipv6(udp(7001, "BAD IPv6"), TO6))
frame(0x86dd, ipv6(udp(7001, "BAD IPv6 multicast"), "ff02::1"), to=mac("33:33:00:00:00:01"))
frame(0x8100, struct.pack("!HH", 7, 0x0800) + ipv4(udp(7001, "BAD VLAN")))
frame(0x88b5, b"<BAD kind>" + bytes(60))
frame(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + OWN + socket.inet_aton(TO) + GATE
      + socket.inet_aton(gateway) + b"<BAD ARP>")
frame(0x0800, ipv4(udp(7001, "own last")))
print("sent")
