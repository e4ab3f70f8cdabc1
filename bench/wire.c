/* A troubled path in real time: Ethernet frames between TAPs and packet sockets, with a rate, a queue, a delay, losses
 * and reordering, one thread.
 *
 *     wire RATE DELAY QUEUE LOSS BURST REORDER LATE SEED a:FD... b:FD...
 *
 * RATE in bit/s and DELAY in ns are of both directions. From side a to side b: QUEUE, the bytes that may wait for their
 * turn; LOSS and REORDER, probabilities of a frame; BURST, the frames of one loss on average (two states, as Gilbert had
 * it; 1: independent), which ends where no frame comes for as long as so many take; LATE, ns by which a reordered frame
 * is late. Frames up to SMALL bytes (handshakes, ARP, bare ACKs) are neither lost nor reordered, so that what happens to
 * the n-th frame of data depends on SEED and n. Frames go to the port of the other side whose address they have. The
 * descriptors do not block.
 *
 * Prints "relaying"; when stdin ends, what it did as one JSON object, with how late frames left after they were due.
 */
#include "common.h"

#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>

#define PORTS 8
#define FRAME 65600  /* more than any frame */
#define WHOLE 1514   /* what is larger was not cut by its sender, and would pass for one packet */
#define SMALL 128
#define BATCH 64     /* frames taken from a port before the others get their turn */
#define LATENESS 64  /* powers of two of ns */

struct frame {
    struct frame *next;
    uint64_t due;
    uint32_t size;
    unsigned char data[];
};

struct line { /* frames under way, in the order in which they are due */
    struct frame *first, **last;
};

struct direction {
    struct line in_time, late;
    uint64_t free_at; /* when the last bit of the last frame has left */
    uint64_t last;    /* when the last frame of data came */
    uint64_t limit;   /* bytes; 0: none */
    double loss, leave, enter, reorder;
    int bad, side; /* of the senders */
    uint64_t seed, passed, lost, reordered, dropped, oversize, overflowed;
};

struct port {
    int fd, side, known;
    unsigned char address[6];
};

static struct port ports[PORTS];
static int n_ports;
static uint64_t rate, delay, late_by, burst_time, lateness[LATENESS];

/* splitmix64, as a part of 1 */
static double chance(struct direction *d)
{
    uint64_t z = d->seed += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static void put(struct line *line, struct frame *frame)
{
    frame->next = NULL;
    *line->last = frame;
    line->last = &frame->next;
}

static void take(struct direction *d, const unsigned char *data, uint32_t size, uint64_t now)
{
    struct frame *frame;
    int late = 0;
    if (size > WHOLE) {
        d->oversize++;
        return;
    }
    if (size > SMALL && d->side == 0) {
        double draw = chance(d);
        late = chance(d) < d->reorder;
        if (now - d->last > burst_time)
            d->bad = 0;
        d->last = now;
        d->bad = d->bad ? draw >= d->leave : draw < d->enter;
        if (d->bad) {
            d->lost++;
            return;
        }
    }
    if (d->free_at < now)
        d->free_at = now;
    if (d->limit && d->free_at > now && (double)(d->free_at - now) * (double)rate / 8e9 + size > (double)d->limit) {
        d->dropped++;
        return;
    }
    d->free_at += (uint64_t)size * 8000000000u / rate;
    frame = malloc(sizeof *frame + size);
    if (frame == NULL)
        die("malloc");
    frame->size = size;
    frame->due = d->free_at + delay + (late ? late_by : 0);
    memcpy(frame->data, data, size);
    d->reordered += (uint64_t)late;
    put(late ? &d->late : &d->in_time, frame);
}

static void deliver(struct direction *d, const struct frame *frame)
{
    int found = -1, i;
    for (i = 0; i < n_ports; i++)
        if (ports[i].side != d->side && ports[i].known && memcmp(ports[i].address, frame->data, 6) == 0)
            found = i;
    for (i = 0; i < n_ports; i++) {
        if (ports[i].side == d->side || (found >= 0 && i != found))
            continue;
        if (write(ports[i].fd, frame->data, frame->size) == (ssize_t)frame->size)
            d->passed++;
        else
            d->overflowed++;
    }
}

/* The line whose first frame is due first; NULL: nothing is under way. */
static struct line *next_line(struct direction *d)
{
    if (d->late.first == NULL || (d->in_time.first != NULL && d->in_time.first->due <= d->late.first->due))
        return d->in_time.first ? &d->in_time : NULL;
    return &d->late;
}

/* Delivers what is due; returns when the next frame is. */
static uint64_t expire(struct direction *d)
{
    struct line *line;
    while ((line = next_line(d)) != NULL) {
        struct frame *frame = line->first;
        uint64_t now = now_ns();
        if (frame->due > now)
            return frame->due;
        line->first = frame->next;
        if (line->first == NULL)
            line->last = &line->first;
        lateness[63 - __builtin_clzll((now - frame->due) | 1)]++;
        deliver(d, frame);
        free(frame);
    }
    return UINT64_MAX;
}

static void receive(struct port *port, struct direction *directions)
{
    static unsigned char data[FRAME];
    for (int i = 0; i < BATCH; i++) {
        ssize_t size = read(port->fd, data, sizeof data);
        if (size < 14)
            return;
        memcpy(port->address, data + 6, 6);
        port->known = 1;
        take(&directions[port->side], data, (uint32_t)size, now_ns());
    }
}

static void relay(struct direction *directions)
{
    struct pollfd waiting[PORTS + 1];
    for (int i = 0; i < n_ports; i++)
        waiting[i] = (struct pollfd){.fd = ports[i].fd, .events = POLLIN};
    waiting[n_ports] = (struct pollfd){.fd = 0, .events = POLLIN};
    for (;;) {
        uint64_t due = expire(&directions[0]), other = expire(&directions[1]), now = now_ns(), left;
        struct timespec wait;
        due = other < due ? other : due;
        left = due > now ? due - now : 0;
        wait = (struct timespec){.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
        if (ppoll(waiting, (nfds_t)n_ports + 1, due == UINT64_MAX ? NULL : &wait, NULL) < 0)
            die("ppoll");
        for (int i = 0; i < n_ports; i++)
            if (waiting[i].revents)
                receive(&ports[i], directions);
        if (waiting[n_ports].revents)
            return;
    }
}

static void print_direction(const char *name, const struct direction *d)
{
    printf("\"%s\": {\"passed\": %llu, \"lost\": %llu, \"reordered\": %llu, \"dropped\": %llu, \"oversize\": %llu, "
           "\"overflowed\": %llu}, ",
           name, (unsigned long long)d->passed, (unsigned long long)d->lost, (unsigned long long)d->reordered,
           (unsigned long long)d->dropped, (unsigned long long)d->oversize, (unsigned long long)d->overflowed);
}

static void report(const struct direction *directions)
{
    printf("{");
    print_direction("there", &directions[0]);
    print_direction("back", &directions[1]);
    printf("\"late_ns\": [");
    for (int i = 0; i < LATENESS; i++)
        printf("%s%llu", i ? ", " : "", (unsigned long long)lateness[i]);
    printf("]}\n");
}

static void add_port(const char *word)
{
    if (n_ports == PORTS || (word[0] != 'a' && word[0] != 'b') || word[1] != ':') {
        fprintf(stderr, "a port is a:FD or b:FD, and there are %d at most: %s\n", PORTS, word);
        exit(2);
    }
    ports[n_ports++] = (struct port){.fd = atoi(word + 2), .side = word[0] == 'b'};
}

int main(int argc, char **argv)
{
    static struct direction directions[2];
    struct sched_param first = {.sched_priority = 2}; /* before the programs at its ends: flows.py */
    double burst;
    if (argc < 11) {
        fprintf(stderr, "usage: %s RATE DELAY QUEUE LOSS BURST REORDER LATE SEED a:FD... b:FD...\n", argv[0]);
        return 2;
    }
    rate = strtoull(argv[1], NULL, 10);
    delay = strtoull(argv[2], NULL, 10);
    late_by = strtoull(argv[7], NULL, 10);
    burst = atof(argv[5]);
    if (rate == 0 || burst < 1) {
        fprintf(stderr, "the rate is above 0, a burst at least 1 frame\n");
        return 2;
    }
    burst_time = (uint64_t)(burst * WHOLE * 8e9 / (double)rate);
    for (int i = 0; i < 2; i++) {
        directions[i].side = i;
        directions[i].in_time.last = &directions[i].in_time.first;
        directions[i].late.last = &directions[i].late.first;
    }
    directions[0].limit = strtoull(argv[3], NULL, 10);
    directions[0].loss = atof(argv[4]);
    directions[0].leave = burst > 1 ? 1 / burst : 1 - directions[0].loss; /* 1: the next is lost as likely as any */
    directions[0].enter = burst > 1 ? directions[0].loss / burst / (1 - directions[0].loss) : directions[0].loss;
    directions[0].reorder = atof(argv[6]);
    directions[0].seed = strtoull(argv[8], NULL, 10);
    for (int i = 9; i < argc; i++)
        add_port(argv[i]);
    prctl(PR_SET_TIMERSLACK, 1);
    sched_setscheduler(0, SCHED_FIFO, &first); /* where that is not allowed it is late more often, and says so */
    printf("relaying\n");
    fflush(stdout);
    relay(directions);
    report(directions);
    return 0;
}
