/* The load: a client on kernel sockets that is never the bottleneck. Prints one JSON object and ends by itself.
 *
 *     load send    ADDRESS PORT SECONDS            bulk to a sink
 *     load receive ADDRESS PORT SECONDS            bulk from a source
 *     load ping    ADDRESS PORT SECONDS SIZE       SIZE bytes there and back, one at a time, each round trip timed
 *     load connect ADDRESS PORT SECONDS N FROM...  connect, write 1, read 1, until the peer closes, close; N at a time,
 *                                                  from every port of the addresses FROM in turn
 *     load leave   ...                             the same, but close without waiting for the peer to
 *
 * The services it talks to: serve.c (kernel), server.py (kernel or ustack), peers/.
 */
#include "common.h"

#include <endian.h>
#include <sys/epoll.h>

#define GRACE 20 /* seconds beyond its own time after which a load that hangs is ended */

/* -- how long things took: 32 steps to each power of two, so a value is off by 3 % at most */

#define STEPS 32
#define BUCKETS (STEPS * 60)

static uint64_t histogram[BUCKETS];

static unsigned bucket_of(uint64_t ns)
{
    unsigned shift;
    if (ns < STEPS)
        return (unsigned)ns;
    shift = 63u - (unsigned)__builtin_clzll(ns) - 5u;
    return shift * STEPS + (unsigned)(ns >> shift);
}

/* The middle of a bucket in ns. */
static double bucket_value(unsigned bucket)
{
    unsigned shift;
    if (bucket < 2 * STEPS)
        return bucket;
    shift = bucket / STEPS - 1;
    return ((double)(bucket % STEPS + STEPS) + 0.5) * (double)(1ull << shift);
}

static uint64_t histogram_count(void)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < BUCKETS; i++)
        count += histogram[i];
    return count;
}

/* The time in us that a share `p` of all stayed at or below. */
static double percentile(double p)
{
    uint64_t wanted = (uint64_t)(p * (double)histogram_count()), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted)
            return bucket_value(i) / 1000;
    }
    return 0;
}

static void print_histogram(void)
{
    const char *separator = "";
    printf("\"p50_us\": %.3f, \"p90_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f, \"histogram_us\": [",
           percentile(0.5), percentile(0.9), percentile(0.99), percentile(0.999));
    for (unsigned i = 0; i < BUCKETS; i++) {
        if (histogram[i] == 0)
            continue;
        printf("%s[%.3f, %llu]", separator, bucket_value(i) / 1000, (unsigned long long)histogram[i]);
        separator = ", ";
    }
    printf("]");
}

/* -- bulk */

static int connected(const struct sockaddr_in *name)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)name, sizeof *name) != 0)
        die("connect");
    return fd;
}

static void print_bulk(uint64_t bytes, uint64_t ns)
{
    printf("{\"bytes\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", (unsigned long long)bytes, (double)ns / 1e9,
           cpu_seconds());
}

/* Until the sink has said how much it got: what is only in a buffer does not count as sent. */
static void bulk_send(const struct sockaddr_in *name, uint64_t duration)
{
    static char block[BLOCK];
    int fd = connected(name);
    uint64_t start = now_ns(), bytes = 0, confirmed;
    while (now_ns() - start < duration) {
        send_all(fd, block, sizeof block);
        bytes += sizeof block;
    }
    shutdown(fd, SHUT_WR);
    if (!recv_all(fd, (char *)&confirmed, sizeof confirmed) || be64toh(confirmed) != bytes) {
        fprintf(stderr, "the sink did not confirm %llu bytes\n", (unsigned long long)bytes);
        exit(1);
    }
    print_bulk(bytes, now_ns() - start);
    close(fd);
}

static void bulk_receive(const struct sockaddr_in *name, uint64_t duration)
{
    static char block[BLOCK];
    int fd = connected(name);
    uint64_t start = now_ns(), now = start, bytes = 0;
    while (now - start < duration) {
        ssize_t got = recv(fd, block, sizeof block, 0);
        if (got <= 0)
            die("recv");
        bytes += (uint64_t)got;
        now = now_ns();
    }
    print_bulk(bytes, now - start);
    close(fd);
}

/* -- ping-pong */

static void ping_pong(const struct sockaddr_in *name, uint64_t duration, size_t size)
{
    char message[65536] = {0};
    int fd = connected(name);
    uint64_t start, warm, before, now;
    if (size < 1 || size > sizeof message) {
        errno = EINVAL;
        die("SIZE");
    }
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    start = now = now_ns();
    warm = start + duration / 10; /* caches, autotuning and delayed-ACK guesses settle first */
    while (now - start < duration) {
        before = now;
        send_all(fd, message, size);
        if (!recv_all(fd, message, size)) {
            fprintf(stderr, "the echo closed\n");
            exit(1);
        }
        now = now_ns();
        if (before >= warm)
            histogram[bucket_of(now - before)]++;
    }
    if (histogram_count() == 0) {
        fprintf(stderr, "no round trip was completed\n");
        exit(1);
    }
    printf("{\"rounds\": %llu, \"cpu_seconds\": %.6f, ", (unsigned long long)histogram_count(), cpu_seconds());
    print_histogram();
    printf("}\n");
    close(fd);
}

/* -- short connections */

static char **sources;
static int n_sources;
static int leaves; /* close as soon as there is an answer */

struct slot {
    int fd;
    uint64_t start;
    int wrote;
};

#define PORT_FIRST 1024
#define PORT_LAST 65535

/* The next address and port to connect from. Who closes first keeps the connection in TIME-WAIT. If that is the peer, a
 * connection from the same port soon after would measure how it treats that (lwIP refuses it for two minutes); if it is
 * this machine, bind() passes that port over. */
static struct sockaddr_in next_source(void)
{
    static int at, port = PORT_FIRST;
    struct sockaddr_in name = parse_address(sources[at], "0");
    name.sin_port = htons((uint16_t)port);
    if (port++ == PORT_LAST) {
        port = PORT_FIRST;
        at = (at + 1) % n_sources;
    }
    return name;
}

static void slot_open(struct slot *slot, int epoll, const struct sockaddr_in *name)
{
    struct sockaddr_in from;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = slot};
    slot->start = now_ns();
    slot->wrote = 0;
    slot->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (slot->fd < 0)
        die("socket");
    do /* somebody else may have a port */
        from = next_source();
    while (bind(slot->fd, (const struct sockaddr *)&from, sizeof from) != 0 && errno == EADDRINUSE);
    if (connect(slot->fd, (const struct sockaddr *)name, sizeof *name) != 0 && errno != EINPROGRESS)
        die("connect");
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, slot->fd, &event) != 0)
        die("epoll_ctl");
}

/* Whether the connection is over: 1 well, -1 badly, 0 not yet. */
static int slot_step(struct slot *slot)
{
    char answer[16];
    if (!slot->wrote) {
        if (send(slot->fd, "?", 1, MSG_NOSIGNAL) != 1)
            return errno == EAGAIN || errno == ENOTCONN ? 0 : -1;
        slot->wrote = 1;
    }
    for (;;) {
        ssize_t got = recv(slot->fd, answer, sizeof answer, 0);
        if (got < 0)
            return errno == EAGAIN ? 0 : -1;
        if (got == 0)
            return slot->wrote == 2 ? 1 : -1; /* closed without an answer */
        slot->wrote = 2;
        if (leaves)
            return 1;
    }
}

static void short_connections(const struct sockaddr_in *name, uint64_t duration, int slots)
{
    struct slot *all = calloc((size_t)slots, sizeof *all);
    struct epoll_event events[64];
    uint64_t start = now_ns(), now = start, done = 0, failed = 0;
    int epoll = epoll_create1(0), open = slots;
    if (epoll < 0 || all == NULL)
        die("epoll_create1");
    for (int i = 0; i < slots; i++)
        slot_open(&all[i], epoll, name);
    /* What is open when the time is up is finished, so that the server gets quiet; it is not counted. */
    while (open > 0) {
        int n = epoll_wait(epoll, events, 64, -1);
        now = now_ns();
        for (int i = 0; i < n; i++) {
            struct slot *slot = events[i].data.ptr;
            int over = slot_step(slot);
            if (over == 0)
                continue;
            close(slot->fd);
            if (over < 0)
                failed++;
            else if (now - start < duration) {
                histogram[bucket_of(now - slot->start)]++;
                done++;
            }
            if (now - start < duration)
                slot_open(slot, epoll, name);
            else
                open--;
        }
    }
    printf("{\"connections\": %llu, \"failed\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, ",
           (unsigned long long)done, (unsigned long long)failed, (double)duration / 1e9, cpu_seconds());
    print_histogram();
    printf("}\n");
    free(all);
}

int main(int argc, char **argv)
{
    const char *kind = argc > 4 ? argv[1] : "";
    int number = argc > 5 ? atoi(argv[5]) : 0;
    struct sockaddr_in name;
    double seconds;
    if (argc < 5) {
        fprintf(stderr, "usage: %s send|receive|ping|connect|leave ADDRESS PORT SECONDS [NUMBER [FROM...]]\n", argv[0]);
        return 2;
    }
    name = parse_address(argv[2], argv[3]);
    seconds = atof(argv[4]);
    alarm((unsigned)seconds + GRACE);
    if (strcmp(kind, "send") == 0)
        bulk_send(&name, (uint64_t)(seconds * 1e9));
    else if (strcmp(kind, "receive") == 0)
        bulk_receive(&name, (uint64_t)(seconds * 1e9));
    else if (strcmp(kind, "ping") == 0)
        ping_pong(&name, (uint64_t)(seconds * 1e9), (size_t)number);
    else if ((strcmp(kind, "connect") == 0 || strcmp(kind, "leave") == 0) && number > 0 && argc > 6) {
        leaves = kind[0] == 'l';
        sources = argv + 6;
        n_sources = argc - 6;
        short_connections(&name, (uint64_t)(seconds * 1e9), number);
    } else {
        fprintf(stderr, "unknown load: %s\n", kind);
        return 2;
    }
    return 0;
}
