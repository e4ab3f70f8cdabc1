/* Fakes TCP on a TAP, as cheaply as it goes: the limit of the device, which no stack behind it can beat by much.
 *
 *     limit_tap SERVICE FD ADDRESS PORT plain|offload [busy]       FD: of the TAP, non-blocking
 *
 * SERVICE: sink, source, echo, short, reply, http, http-close (load.c, serve.c). offload: the TAP has virtio-net headers
 * (IFF_VNET_HDR); superframes go both ways, of 64 KB and more, checksums are left to the kernel. busy: asks the device again
 * and again instead of sleeping in it.
 *
 * It is no TCP: it believes every segment, keeps next to nothing, and sends the same bytes again and again. What is
 * echoed or answered is turned round where it was read, with the numbers of the segment that is answered. A sink
 * acknowledges whatever came last; a source sends headers in front of one block of zeros, which needs no checksum, as
 * far as the window goes. What is left is system calls, and what the kernel does in them. It answers ARP. One bulk
 * transfer at a time.
 *
 * Prints "ready" and serves until it is killed.
 */
#include "common.h"

#include <endian.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#define MSS 1460
/* Data of a superframe: whole segments; beyond 64 KB the length field of IPv4 says 0, which Linux knows since 6.3. */
#define SUPER (44 * MSS)
#define SUPER_BIG (82 * MSS)
#define SCALE 10
/* The fastest of 512 KB to 16 MB and of 64 KB to 1 MB: with less the client waits, with more the caches are cold. */
#define WINDOW (1u << 20)     /* what the client may have under way; the device's queue of 5,000 frames holds it */
#define ACK_EVERY (64u << 10) /* bytes, when there is always another frame to read */
#define STALLED 20            /* ms without a word, after which a source begins again at what was acknowledged */

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };
enum { NONE = -2, OTHER = -1 }; /* instead of a size: no frame, or one without a segment for the service */

struct ether {
    uint8_t to[6], from[6];
    uint16_t type;
} __attribute__((packed));

struct arp {
    struct ether ether;
    uint16_t hardware, protocol;
    uint8_t sizes[2];
    uint16_t operation;
    uint8_t sender[6];
    uint32_t sender_ip;
    uint8_t target[6];
    uint32_t target_ip;
} __attribute__((packed));

struct segment {
    struct ether ether;
    uint8_t version, tos;
    uint16_t length, id, fragment;
    uint8_t ttl, protocol;
    uint16_t ip_sum;
    uint32_t from, to;
    uint16_t from_port, to_port;
    uint32_t seq, ack;
    uint8_t offset, flags;
    uint16_t window, sum, urgent;
    uint8_t data[256]; /* as much as is ever written there: options, or an answer; what is read may be longer */
} __attribute__((packed));

#define ETHER sizeof(struct ether)
#define IP 20
#define TCP 20
#define HEADERS (ETHER + IP + TCP)

static const uint8_t mac[6] = {2, 0, 0, 0, 0, 2};
static int tap, offload, busy;
static uint32_t burst = MSS; /* data of a frame to the kernel */
static uint32_t address;
static uint16_t port;
static size_t virtio; /* bytes of the virtio-net header; 0 on a plain TAP */
static unsigned peer_scale;
static uint8_t zeros[SUPER_BIG];

/* A frame where it is read, turned round, and written from; the header right before it. */
static struct {
    uint8_t before[64];
    union {
        struct segment segment;
        struct arp arp;
        uint8_t bytes[80 * 1024];
    };
} buffer __attribute__((aligned(64)));

#define IN (&buffer.segment)

/* -- frames */

static uint64_t sum(const void *data, size_t size)
{
    const uint8_t *at = data;
    uint64_t total = 0;
    uint16_t word;
    for (; size > 1; size -= 2, at += 2) {
        memcpy(&word, at, 2);
        total += word;
    }
    return size ? total + *at : total;
}

static uint16_t folded(uint64_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)total;
}

/* Complete and write a segment: headers, `inside` bytes of options and data behind them, then zeros up to `size`. */
static void transmit(struct segment *s, size_t options, size_t inside, size_t size)
{
    struct virtio_net_hdr *h = (struct virtio_net_hdr *)((uint8_t *)s - virtio);
    struct iovec iov[2] = {{h, virtio + HEADERS + inside}, {zeros, size - inside}};
    uint64_t pseudo;
    s->length = htons(IP + TCP + size > 65535 ? 0 : (uint16_t)(IP + TCP + size));
    s->fragment = htons(0x4000);
    s->ip_sum = 0;
    s->ip_sum = (uint16_t)~folded(sum(&s->version, IP));
    s->offset = (uint8_t)((TCP + options) << 2);
    s->sum = s->urgent = 0;
    pseudo = sum(&s->from, 8) + htons(IPPROTO_TCP) + htonl((uint32_t)(TCP + size)) % 65535;
    if (offload) {
        int super = size > MSS;
        s->sum = folded(pseudo);
        *h = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                     .gso_type = super ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_NONE,
                                     .hdr_len = HEADERS,
                                     .gso_size = super ? MSS : 0,
                                     .csum_start = ETHER + IP,
                                     .csum_offset = 16};
    } else {
        s->sum = (uint16_t)~folded(pseudo + sum(&s->from_port, TCP + inside));
    }
    if (writev(tap, iov, size > inside ? 2 : 1) < 0)
        die("write to the TAP");
}

/* Make the segment in IN one that answers it, up to its flags; `taken`: what it adds to the sequence. */
static void turn(uint8_t flags, uint32_t taken)
{
    struct segment *s = IN;
    uint32_t ip = s->from, seq = s->seq;
    uint16_t from = s->from_port;
    memcpy(s->ether.to, s->ether.from, 6);
    memcpy(s->ether.from, mac, 6);
    s->from = s->to;
    s->to = ip;
    s->from_port = s->to_port;
    s->to_port = from;
    s->seq = s->ack;
    s->ack = htonl(ntohl(seq) + taken);
    s->flags = flags;
    s->window = htons(WINDOW >> SCALE);
}

/* The client's SYN in IN gets a SYN-ACK with MSS and window scale, so that no later segment has options. */
static void greet(size_t options)
{
    static const uint8_t mine[8] = {2, 4, MSS >> 8, MSS & 255, 1, 3, 3, SCALE};
    const uint8_t *theirs = IN->data;
    peer_scale = 0;
    for (size_t i = 0; i + 2 < options && theirs[i] != 0; i += theirs[i] == 1 || theirs[i + 1] < 2 ? 1 : theirs[i + 1])
        if (theirs[i] == 3)
            peer_scale = theirs[i + 2] & 15;
    turn(SYN | ACK, 1);
    IN->seq = htonl(1000);
    IN->window = 0xffff; /* this one is not scaled */
    memcpy(IN->data, mine, sizeof mine);
    transmit(IN, sizeof mine, sizeof mine, sizeof mine);
}

static void answer_arp(void)
{
    struct arp *a = &buffer.arp;
    if (a->operation != htons(1) || a->target_ip != address)
        return;
    memcpy(a->ether.to, a->ether.from, 6);
    memcpy(a->ether.from, mac, 6);
    a->operation = htons(2);
    memcpy(a->target, a->sender, 6);
    a->target_ip = a->sender_ip;
    memcpy(a->sender, mac, 6);
    a->sender_ip = address;
    memset(buffer.bytes - virtio, 0, virtio);
    if (write(tap, buffer.bytes - virtio, virtio + sizeof *a) < 0)
        die("write to the TAP");
}

/* Read a frame into IN. The size of its data, or OTHER (handled here, if it wants to be), or NONE. */
static int take(void)
{
    struct segment *s = IN;
    ssize_t got = read(tap, buffer.bytes - virtio, virtio + sizeof buffer.bytes);
    size_t size = (size_t)got - virtio, length, headers;
    if (got < 0) {
        if (errno == EAGAIN)
            return NONE;
        die("read from the TAP");
    }
    if (size >= sizeof(struct arp) && s->ether.type == htons(0x0806))
        answer_arp();
    if (size < HEADERS || s->ether.type != htons(0x0800) || s->version != 0x45 || s->protocol != IPPROTO_TCP ||
        s->to != address || s->to_port != port)
        return OTHER;
    length = ntohs(s->length);
    headers = IP + (s->offset >> 4) * 4u;
    if (headers < IP + TCP || length < headers || size < ETHER + length)
        return OTHER;
    if (s->flags & SYN) {
        greet(headers - IP - TCP);
        return OTHER;
    }
    return headers == IP + TCP ? (int)(length - headers) : OTHER;
}

/* Until there is a frame: 1, or `ms` are over: 0. */
static int wait_for_frame(int ms)
{
    struct pollfd wait = {.fd = tap, .events = POLLIN};
    return busy || poll(&wait, 1, ms) > 0;
}

/* -- the services */

static void sink(void)
{
    uint64_t total = 0, count;
    uint32_t owed = 0;
    for (;;) {
        int size = take();
        if (size >= 0) {
            uint8_t flags = IN->flags;
            turn(ACK, (uint32_t)size + (flags & FIN));
            total += (uint32_t)size;
            owed += (uint32_t)size;
            if (flags & (FIN | RST)) {
                if (flags & FIN && total > 0) {
                    count = htobe64(total);
                    memcpy(IN->data, &count, sizeof count);
                    IN->flags = ACK | PSH | FIN;
                    transmit(IN, 0, sizeof count, sizeof count);
                }
                total = owed = 0;
            }
        }
        if (owed > 0 && (size == NONE || owed >= ACK_EVERY)) { /* the answer to the last segment is still there */
            transmit(IN, 0, 0, 0);
            owed = 0;
        }
        if (size == NONE)
            wait_for_frame(-1);
    }
}

static struct {
    uint8_t before[64];
    struct segment segment; /* what is sent over and over, with another number */
    int open;
    uint32_t next, acknowledged, window, repaired;
    int duplicates;
} flow __attribute__((aligned(64)));

/* What the client's segment in IN, of `size` bytes, means for the flow. */
static void heard(int size)
{
    uint32_t ack = ntohl(IN->ack), window = (uint32_t)ntohs(IN->window) << peer_scale;
    if (IN->flags & (FIN | RST)) {
        flow.open = 0;
        return;
    }
    if (!flow.open) {
        turn(ACK | PSH, (uint32_t)size);
        memcpy(&flow.segment, IN, HEADERS);
        flow.next = flow.repaired = ack;
        flow.open = 1;
    }
    flow.duplicates = ack == flow.acknowledged && window == flow.window ? flow.duplicates + 1 : 0;
    flow.acknowledged = ack;
    flow.window = window;
}

static void send_from(uint32_t seq, uint32_t size)
{
    flow.segment.seq = htonl(seq);
    transmit(&flow.segment, 0, 0, size);
}

/* How much goes next: a burst, or what the window has when all is acknowledged; 0: nothing. */
static uint32_t next_size(void)
{
    uint32_t ahead = flow.next - flow.acknowledged;
    if (!flow.open || ahead > flow.window)
        return 0;
    if (flow.window - ahead >= burst)
        return burst;
    return ahead == 0 ? flow.window / MSS * MSS : 0;
}

static void source(void)
{
    for (;;) {
        uint32_t more;
        int size;
        while ((size = take()) != NONE)
            if (size >= 0)
                heard(size);
        if (flow.duplicates > 2 && flow.repaired != flow.acknowledged)
            send_from(flow.repaired = flow.acknowledged, MSS);
        if (next_size() == 0 && !wait_for_frame(flow.open ? STALLED : -1))
            flow.next = flow.acknowledged;
        while ((more = next_size()) > 0) {
            send_from(flow.next, more);
            flow.next += more;
        }
    }
}

static void echo(void)
{
    for (;;) {
        int size = take();
        if (size > 0 && (size_t)size <= sizeof IN->data) {
            turn(ACK | PSH, (uint32_t)size);
            transmit(IN, 0, (size_t)size, (size_t)size);
        } else if (size == 0 && IN->flags & FIN) {
            turn(ACK | FIN, 1);
            transmit(IN, 0, 0, 0);
        }
    }
}

/* Each request gets the same answer; where that is the last word, the FIN goes in its segment. */
static void answer(const char *text, uint8_t fin)
{
    size_t length = strlen(text);
    for (;;) {
        int size = take();
        if (size > 0) {
            turn(ACK | PSH | fin, (uint32_t)size);
            memcpy(IN->data, text, length);
            transmit(IN, 0, length, length);
        } else if (size == 0 && IN->flags & FIN) {
            turn(ACK | (fin ^ FIN), 1);
            transmit(IN, 0, 0, 0);
        }
    }
}

static void answer_byte(void)
{
    answer("!", FIN);
}

static void http(void)
{
    answer(HTTP_ANSWER(""), 0);
}

static void http_close(void)
{
    answer(HTTP_ANSWER("Connection: close\r\n"), FIN);
}

static void use_offloads(void)
{
    int bytes = sizeof(struct virtio_net_hdr), major, minor;
    struct utsname kernel;
    if (ioctl(tap, TUNSETVNETHDRSZ, &bytes) != 0 || ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) != 0)
        die("offloads of the TAP");
    virtio = sizeof(struct virtio_net_hdr);
    if (uname(&kernel) == 0 && sscanf(kernel.release, "%d.%d", &major, &minor) == 2)
        burst = major > 6 || (major == 6 && minor >= 3) ? SUPER_BIG : SUPER;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
        int sleeps_in_read; /* which is a call less than asking, and sleeping in poll */
    } services[] = {{"sink", sink, 0},
                    {"source", source, 0},
                    {"echo", echo, 1},
                    {"reply", echo, 1},
                    {"short", answer_byte, 1},
                    {"http", http, 1},
                    {"http-close", http_close, 1}};
    for (size_t i = 0; argc > 5 && i < sizeof services / sizeof *services; i++) {
        struct sockaddr_in name;
        if (strcmp(argv[1], services[i].name) != 0)
            continue;
        tap = atoi(argv[2]);
        name = parse_address(argv[3], argv[4]);
        address = name.sin_addr.s_addr;
        port = name.sin_port;
        offload = strcmp(argv[5], "offload") == 0;
        busy = argc > 6;
        if (offload)
            use_offloads();
        memset(zeros, 0, sizeof zeros); /* or all of them would be the kernel's one page of zeros */
        if (services[i].sleeps_in_read && !busy && fcntl(tap, F_SETFL, fcntl(tap, F_GETFL) & ~O_NONBLOCK) != 0)
            die("the TAP");
        printf("ready\n");
        fflush(stdout);
        services[i].run();
    }
    fprintf(stderr, "usage: %s SERVICE FD ADDRESS PORT plain|offload [busy]\n", argv[0]);
    return 2;
}
