"""A stub resolver over a stack's own sockets: names to addresses, by asking DNS servers.

Responsible for: servers, retries, the search list, what of an answer is believed (RFC 5452), the cache and negative
answers (RFC 2308). Not for: the messages (ustack/dns.py), the shape of getaddrinfo (ustack/resolve.py). A and AAAA are
asked for at the same time, each query from a socket of its own with a random port and a random id; an answer cut short
is asked for again over TCP (RFC 7766); EDNS0 (RFC 6891) offers 1,232 bytes.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import selectors
import socket
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any

from . import clock, dns

if TYPE_CHECKING:
    from .stack import Stack

_UDP_SIZE = 1232
_MAX_TTL = 86400.0  # s
_MAX_NEGATIVE_TTL = 3 * 3600.0  # RFC 2308 §5
_MAX_ALIASES = 8
_MAX_ADDRESSES = 64
_TYPES = {AF_INET: dns.A, AF_INET6: dns.AAAA}
_NEVER = ("invalid", "onion", "local")  # RFC 6761 §6.4, RFC 7686, RFC 6762: not to be asked for in DNS


@dataclass(frozen=True)
class Answer:
    """What is known of a name: addresses; rcode NOERROR without addresses says that there are none of this type."""

    rcode: int
    addresses: tuple[str, ...]
    ttl: float


class _Exchange:
    """One question to one server, over a socket of its own."""

    def __init__(self, resolver: Resolver, stack: Stack, server: str, name: str, type: int, udp_size: int) -> None:
        self.type = type
        self.udp_size = udp_size
        self.server = server
        self.name = resolver._mixed(name)
        self.id = resolver._random.randrange(1 << 16)
        self.query = dns.make_query(self.id, self.name, type, udp_size)
        self.reply: dns.Message | None = None
        self.failed = False
        self.sock = stack.socket(AF_INET6 if ":" in server else AF_INET, socket.SOCK_DGRAM)
        try:
            self.sock.settimeout(0)
            resolver._bind(self.sock)
            self.sock.connect((server, resolver.port))
            self.sock.send(self.query)
        except OSError:
            self.failed = True

    def believes(self, data: bytes) -> dns.Message | None:
        """The answer, if it is one to this question (RFC 5452 §9.1); the socket hears its server only."""
        try:
            message = dns.parse(data)
        except dns.DnsError:
            return None
        right = message.is_response and message.id == self.id
        # The question with its very case (draft-vixie-dnsext-dns0x20), which servers copy.
        if not right or message.questions != ((self.name.rstrip(".") or ".", self.type, dns.IN),):
            return None
        return message

    def read(self) -> None:
        """Take what has come; datagrams that are no answer are passed over."""
        while self.reply is None and not self.failed:
            try:
                data = self.sock.recv(65535)
            except BlockingIOError:
                return
            except OSError:  # nobody listens there
                self.failed = True
                return
            self.reply = self.believes(data)


class Resolver:
    """Asks DNS servers for names; made by Stack.use_dns(). Called with a name, it gives the list of its addresses.

    servers: addresses, asked in this order. search: domains to complete names with that have fewer than `ndots` dots,
    or that are not found as they are. timeout: seconds to wait for an answer; attempts: times each server is asked;
    cache_size: answers kept. port: the servers'. mix_case: random upper and lower case in questions, which a forger
    has to guess, too (0x20); not all servers copy it. Safe to use from several threads.
    """

    def __init__(
        self,
        stack: Stack,
        servers: Iterable[str],
        *,
        search: Iterable[str] = (),
        ndots: int = 1,
        timeout: float = 5.0,
        attempts: int = 2,
        cache_size: int = 1000,
        port: int = 53,
        mix_case: bool = False,
    ) -> None:
        self.servers = [str(ipaddress.ip_address(one)) for one in servers]
        self.search = [one.strip(".") for one in search]
        if not self.servers:
            raise ValueError("servers: a resolver needs at least one")
        if timeout <= 0 or attempts < 1 or cache_size < 0 or ndots < 0 or not 1 <= port <= 65535:
            raise ValueError("timeout, attempts, cache_size, ndots, port: out of range")
        for domain in self.search:
            dns.encode_name(domain)
        self.ndots, self.timeout, self.attempts, self.port, self.mix_case = ndots, timeout, attempts, port, mix_case
        self._stack = weakref.ref(stack)
        self._random = clock.random_source(stack, "dns")
        self._cache_size = cache_size
        self._cache: OrderedDict[tuple[str, int], tuple[float, Answer]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, name: str) -> list[str]:
        """The IPv4 addresses of a name; an empty list: there is no such name. Raises socket.gaierror."""
        return self.addresses(name, (AF_INET,))

    def addresses(self, name: str, families: Sequence[int]) -> list[str]:
        """The addresses of a name of these families (AF_INET, AF_INET6), in this order of families.

        An empty list: there is no such name. Raises socket.gaierror: EAI_AGAIN (no server answers), EAI_NODATA (the
        name has no such addresses).
        """
        types = [_TYPES[socket.AddressFamily(one)] for one in families]
        exists = failed = False
        for candidate in self._candidates(name):
            answers = self._lookup(candidate, types)
            found = [address for one in answers if one is not None for address in one.addresses]
            if found:
                return found
            failed = failed or None in answers
            exists = exists or any(one is not None and one.rcode == dns.NOERROR for one in answers)
        if failed:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if exists:
            code = getattr(socket, "EAI_NODATA", socket.EAI_NONAME)
            raise socket.gaierror(code, "No address associated with hostname")
        return []

    def clear(self) -> None:
        """Forget what was learnt."""
        with self._lock:
            self._cache.clear()

    @property
    def cached(self) -> int:
        """How many answers are kept."""
        return len(self._cache)

    # -- names

    def _candidates(self, name: str) -> list[str]:
        """The full names to ask for, in order (resolv.conf(5): search, ndots)."""
        plain = name.rstrip(".").lower()
        completed = [] if name.endswith(".") else [f"{plain}.{domain}" for domain in self.search if domain]
        wanted = [plain, *completed] if plain.count(".") >= self.ndots else [*completed, plain]
        good = []
        for one in wanted:
            with contextlib.suppress(dns.DnsError):
                dns.encode_name(one)
                if one and one.rpartition(".")[2] not in _NEVER:
                    good.append(one)
        return good

    def _mixed(self, name: str) -> str:
        if not self.mix_case:
            return name
        return "".join(c.upper() if self._random.getrandbits(1) else c for c in name)

    def _bind(self, sock: Any) -> None:
        """RFC 5452 §9.2: a port out of all that may be had."""
        for _ in range(8):
            try:
                sock.bind(("::" if sock.family == AF_INET6 else "", self._random.randrange(1024, 65536)))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        sock.bind(("", 0))

    # -- asking

    def _lookup(self, name: str, types: list[int]) -> list[Answer | None]:
        """An answer for each type; None: no server has one."""
        answers = {type: self._cached(name, type) for type in types}
        missing = [type for type, known in answers.items() if known is None]
        if missing:
            answers.update(self._ask(name, missing))
        return [answers[type] for type in types]

    def _ask(self, name: str, types: list[int]) -> dict[int, Answer | None]:
        stack = self._stack()
        if stack is None or stack.closed:
            raise OSError(errno.EBADF, "the stack is closed")
        found: dict[int, Answer | None] = dict.fromkeys(types)
        for _ in range(self.attempts):
            for server in self.servers:
                left = [type for type in types if found[type] is None]
                for type, reply in self._exchange(stack, server, name, left):
                    found[type] = self._learn(name, type, reply)
                if any(one is not None and one.addresses for one in found.values()) or None not in found.values():
                    return found
        return found

    def _exchange(self, stack: Stack, server: str, name: str, types: list[int]) -> list[tuple[int, dns.Message]]:
        """Ask one server once for each type, all at a time -> what it said of use."""
        exchanges: list[_Exchange] = []
        try:
            exchanges += (_Exchange(self, stack, server, name, type, _UDP_SIZE) for type in types)
            self._wait(stack, exchanges)
            plain = [one for one in exchanges if one.reply is not None and one.reply.rcode in (dns.FORMERR, dns.NOTIMP)]
            if plain:  # RFC 6891 §7: a server that does not know EDNS0
                for old in plain:
                    old.sock.close()
                    exchanges.remove(old)
                again = [_Exchange(self, stack, server, name, one.type, 0) for one in plain]
                exchanges += again
                self._wait(stack, again)
            replies = []
            for one in exchanges:
                reply = one.reply
                if reply is not None and reply.truncated:
                    reply = self._over_tcp(stack, one)
                if reply is not None and reply.rcode in (dns.NOERROR, dns.NXDOMAIN):
                    replies.append((one.type, reply))
            return replies
        finally:
            for one in exchanges:
                one.sock.close()

    def _wait(self, stack: Stack, exchanges: list[_Exchange]) -> None:
        deadline = clock.now(stack) + self.timeout
        with stack.selector() as selector:
            for one in exchanges:
                if not one.failed:
                    selector.register(one.sock, selectors.EVENT_READ, one)
            while selector.get_map():
                ready = selector.select(max(deadline - clock.now(stack), 0))
                if not ready:
                    return
                for key, _ in ready:
                    key.data.read()
                    if key.data.reply is not None or key.data.failed:
                        selector.unregister(key.fileobj)
                if clock.now(stack) >= deadline:  # somebody keeps us busy with forgeries
                    return

    def _over_tcp(self, stack: Stack, exchange: _Exchange) -> dns.Message | None:
        deadline = clock.now(stack) + self.timeout
        sock = stack.socket(exchange.sock.family)
        data = b""
        try:
            sock.settimeout(self.timeout)
            sock.connect((exchange.server, self.port))
            sock.sendall(len(exchange.query).to_bytes(2, "big") + exchange.query)
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                sock.settimeout(max(deadline - clock.now(stack), 0.001))
                piece = sock.recv(65537 - len(data))
                if not piece:
                    return None
                data += piece
        except OSError:
            return None
        finally:
            sock.close()
        return exchange.believes(data[2:])

    # -- believing

    def _learn(self, name: str, type: int, reply: dns.Message, depth: int = 0) -> Answer | None:
        """What a reply says of a name, by way of its aliases. Records of other names are not listened to."""
        ttl, here = _MAX_TTL, name
        for _ in range(_MAX_ALIASES):
            addresses = [r for r in reply.answers if r.type == type and dns.same_name(r.name, here)]
            if addresses:
                ttl = min(ttl, *(one.ttl for one in addresses))
                listed = dict.fromkeys(one.data for one in addresses)
                return self._keep(name, type, Answer(dns.NOERROR, tuple(listed)[:_MAX_ADDRESSES], ttl))
            alias = next((r for r in reply.answers if r.type == dns.CNAME and dns.same_name(r.name, here)), None)
            if alias is None:
                break
            ttl, here = min(ttl, alias.ttl), alias.data
        if here != name and reply.rcode == dns.NOERROR and not _has_soa(reply) and depth == 0:
            return self._follow(name, here, type, ttl)
        # RFC 2308 §5: without an SOA record a negative answer is not kept.
        negative = [min(r.ttl, r.data) for r in reply.authority if r.type == dns.SOA]
        ttl = min([ttl, _MAX_NEGATIVE_TTL, *negative]) if negative else 0
        return self._keep(name, type, Answer(reply.rcode, (), ttl))

    def _follow(self, name: str, alias: str, type: int, ttl: float) -> Answer | None:
        """A server that gave an alias and not its addresses."""
        stack = self._stack()
        if stack is None:
            return None
        for server in self.servers:
            for _, reply in self._exchange(stack, server, alias.rstrip(".").lower(), [type]):
                found = self._learn(alias.rstrip(".").lower(), type, reply, depth=1)
                if found is not None:
                    return self._keep(name, type, Answer(found.rcode, found.addresses, min(found.ttl, ttl)))
        return None

    def _cached(self, name: str, type: int) -> Answer | None:
        stack = self._stack()
        with self._lock:
            known = self._cache.get((name, type))
            if known is None or stack is None or known[0] <= clock.now(stack):
                return None
            self._cache.move_to_end((name, type))
            return known[1]

    def _keep(self, name: str, type: int, answer: Answer) -> Answer:
        stack = self._stack()
        if stack is not None and answer.ttl > 0 and self._cache_size:
            with self._lock:
                self._cache[name, type] = clock.now(stack) + answer.ttl, answer
                self._cache.move_to_end((name, type))
                while len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)
        return answer


def _has_soa(reply: dns.Message) -> bool:
    return any(one.type == dns.SOA for one in reply.authority)
