/* A crowd of clients on kernel sockets, and those who only pretend to be clients.
 *
 *     hold hold  ADDRESS PORT N SAMPLE FIRST FROM...  open N connections and keep them; echo 64 bytes on SAMPLE of
 *                                                them; print; end when stdin does. Each port of each address FROM in
 *                                                turn, but for those of the FIRST connections, which others opened
 *     hold flood ADDRESS PORT SECONDS [junk]    SYNs from random addresses in 10.128.0.0/9, as fast as it goes; junk:
 *                                               with FIN, which is nothing and gets no answer
 *     hold ping  ADDRESS N                      N ICMP echos, one at a time; their median
 *
 * Prints one JSON object. Raw sockets need CAP_NET_RAW in the namespace.
 */
#include "common.h"

#include <netinet/ip.h>
#include <netinet/ip_icmp.h>

#define MESSAGE 64
#define BATCH 64
#define FIRST_PORT 1024
#define PATIENCE 5 /* seconds for an answer */

static uint64_t state = 88172645463325252u;

static uint32_t random32(void) /* xorshift64 */
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static uint32_t sum16(const void *data, size_t size, uint32_t sum)
{
    const uint16_t *p = data;
    for (; size > 1; size -= 2)
        sum += *p++;
    return sum;
}

static uint16_t folded(uint32_t sum)
{
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)~sum;
}

/* -- hold */

static int connected(const struct sockaddr_in *to, const char *from, int port)
{
    struct timeval patience = {.tv_sec = PATIENCE};
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (inet_pton(AF_INET, from, &own.sin_addr) != 1)
        die(from);
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1); /* the kernel's search for a free port gets slow when few are */
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0)
        die("SO_RCVTIMEO");
    if (bind(fd, (struct sockaddr *)&own, sizeof own) != 0)
        die("bind");
    if (connect(fd, (const struct sockaddr *)to, sizeof *to) != 0)
        die("connect");
    return fd;
}

static int echoed(int fd)
{
    char sent[MESSAGE], got[MESSAGE];
    for (size_t i = 0; i < sizeof sent; i++)
        sent[i] = (char)random32();
    send_all(fd, sent, sizeof sent);
    return recv_all(fd, got, sizeof got) && memcmp(sent, got, sizeof sent) == 0;
}

static void hold(const struct sockaddr_in *to, int count, int sample, int first, char **from,
                 int addresses)
{
    struct rlimit most;
    int *fds = calloc((size_t)count, sizeof *fds), good = 0;
    uint64_t start = now_ns();
    double seconds;
    char end;
    if (fds == NULL || addresses < 1 || getrlimit(RLIMIT_NOFILE, &most) != 0)
        die("hold");
    most.rlim_cur = most.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &most) != 0)
        die("RLIMIT_NOFILE");
    for (int i = 0; i < count; i++)
        fds[i] = connected(to, from[(first + i) % addresses], FIRST_PORT + (first + i) / addresses);
    seconds = (double)(now_ns() - start) / 1e9;
    for (int i = 0; i < sample; i++)
        good += echoed(fds[random32() % (uint32_t)count]);
    printf("{\"open\": %d, \"echoed\": %d, \"seconds\": %.6f}\n", count, good, seconds);
    fflush(stdout);
    while (read(0, &end, 1) > 0)
        ;
}

/* -- flood */

struct syn {
    struct iphdr ip;
    struct tcphdr tcp;
    uint8_t options[4];
} __attribute__((packed));

struct pseudo {
    uint32_t source, destination;
    uint16_t protocol, length;
};

static void forge(struct syn *s, const struct sockaddr_in *to, int junk)
{
    static const uint8_t mss[4] = {2, 4, 5, 180};
    struct pseudo over = {.source = htonl(0x0A800001 + (random32() & 0x7FFFF0)),
                          .destination = to->sin_addr.s_addr,
                          .protocol = htons(IPPROTO_TCP),
                          .length = htons(sizeof s->tcp + sizeof s->options)};
    memset(s, 0, sizeof *s);
    s->ip.version = 4;
    s->ip.ihl = 5;
    s->ip.ttl = 64;
    s->ip.protocol = IPPROTO_TCP;
    s->ip.saddr = over.source;
    s->ip.daddr = over.destination;
    s->tcp.source = htons((uint16_t)(1024 + random32() % 60000));
    s->tcp.dest = to->sin_port;
    s->tcp.seq = random32();
    s->tcp.doff = (sizeof s->tcp + sizeof s->options) / 4;
    s->tcp.syn = 1;
    s->tcp.fin = junk != 0;
    s->tcp.window = htons(65535);
    memcpy(s->options, mss, sizeof mss);
    s->tcp.check = folded(sum16(&s->tcp, sizeof s->tcp + sizeof s->options, sum16(&over, sizeof over, 0)));
}

static void flood(const struct sockaddr_in *to, double seconds, int junk)
{
    static struct syn packets[BATCH];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), sent = 0;
    int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    if (fd < 0)
        die("raw socket");
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){.iov_base = &packets[i], .iov_len = sizeof packets[i]};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = (void *)to, .msg_namelen = sizeof *to, .msg_iov = &parts[i], .msg_iovlen = 1};
    }
    while (now_ns() < end) {
        int done;
        for (int i = 0; i < BATCH; i++)
            forge(&packets[i], to, junk);
        done = sendmmsg(fd, messages, BATCH, 0);
        if (done < 0 && errno != ENOBUFS && errno != EAGAIN)
            die("sendmmsg");
        sent += done > 0 ? (uint64_t)done : 0;
    }
    printf("{\"sent\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent, (double)(now_ns() - start) / 1e9);
}

/* -- ping */

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void ping(const struct sockaddr_in *to, int count)
{
    struct {
        struct icmphdr h;
        char data[MESSAGE];
    } echo = {.h = {.type = ICMP_ECHO}};
    struct timeval patience = {.tv_sec = PATIENCE};
    uint64_t *took = calloc((size_t)count, sizeof *took);
    int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
    if (fd < 0 || took == NULL || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0)
        die("ping");
    echo.h.un.echo.id = htons((uint16_t)getpid());
    for (int i = 0; i < count; i++) {
        uint64_t start = now_ns();
        char answer[256];
        struct icmphdr *h = (struct icmphdr *)(answer + 20);
        echo.h.un.echo.sequence = htons((uint16_t)i);
        echo.h.checksum = 0;
        echo.h.checksum = folded(sum16(&echo, sizeof echo, 0));
        if (sendto(fd, &echo, sizeof echo, 0, (const struct sockaddr *)to, sizeof *to) < 0)
            die("sendto");
        do {
            if (recv(fd, answer, sizeof answer, 0) < 28)
                die("no answer");
        } while (h->type != ICMP_ECHOREPLY || h->un.echo.id != echo.h.un.echo.id
                 || h->un.echo.sequence != echo.h.un.echo.sequence);
        took[i] = now_ns() - start;
    }
    qsort(took, (size_t)count, sizeof *took, by_size);
    printf("{\"count\": %d, \"median_us\": %.3f, \"p99_us\": %.3f}\n", count, (double)took[count / 2] / 1000,
           (double)took[(size_t)count * 99 / 100] / 1000);
}

int main(int argc, char **argv)
{
    const char *kind = argc > 3 ? argv[1] : "";
    if (strcmp(kind, "ping") == 0) {
        struct sockaddr_in to = parse_address(argv[2], "0");
        ping(&to, atoi(argv[3]));
    } else if (strcmp(kind, "hold") == 0 && argc > 7) {
        struct sockaddr_in to = parse_address(argv[2], argv[3]);
        hold(&to, atoi(argv[4]), atoi(argv[5]), atoi(argv[6]), argv + 7, argc - 7);
    } else if (strcmp(kind, "flood") == 0 && argc > 4) {
        struct sockaddr_in to = parse_address(argv[2], argv[3]);
        flood(&to, atof(argv[4]), argc > 5);
    } else {
        fprintf(stderr, "usage: %s hold ADDRESS PORT N SAMPLE FIRST FROM... | flood ADDRESS PORT SECONDS [junk] | ping ADDRESS N\n",
                argv[0]);
        return 2;
    }
    return 0;
}
