/* The services on kernel sockets, in C: what the kernel's TCP can do when its program is not the bottleneck.
 *
 *     serve sink|source|echo|short ADDRESS PORT
 *
 * Prints "ready" and serves until it is killed, one connection after the other (short: many at a time).
 */
#include "common.h"

#include <endian.h>
#include <sys/epoll.h>

static char block[BLOCK];

static int listening(const struct sockaddr_in *name, int flags)
{
    int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (fd < 0)
        die("socket");
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(fd, (const struct sockaddr *)name, sizeof *name) != 0 || listen(fd, 1024) != 0)
        die("bind");
    return fd;
}

static void sink(int fd)
{
    uint64_t bytes = 0;
    ssize_t got;
    while ((got = recv(fd, block, sizeof block, 0)) > 0)
        bytes += (uint64_t)got;
    bytes = htobe64(bytes);
    send(fd, &bytes, sizeof bytes, MSG_NOSIGNAL);
}

static void source(int fd)
{
    while (send(fd, block, sizeof block, MSG_NOSIGNAL) > 0)
        ;
}

static void echo(int fd)
{
    ssize_t got;
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    while ((got = recv(fd, block, sizeof block, 0)) > 0)
        send_all(fd, block, (size_t)got);
}

/* Whether it was answered, or is over. */
static int answer(int fd)
{
    char request;
    if (recv(fd, &request, 1, 0) < 0 && errno == EAGAIN)
        return 0;
    send(fd, "!", 1, MSG_NOSIGNAL);
    close(fd);
    return 1;
}

static void serve_short(int listener)
{
    struct epoll_event events[64], event = {.events = EPOLLIN, .data.fd = listener};
    int epoll = epoll_create1(0);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0)
        die("epoll");
    for (;;) {
        int n = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                answer(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                event.data.fd = fd;
                if (!answer(fd) && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
                    die("epoll_ctl");
            }
        }
    }
}

int main(int argc, char **argv)
{
    void (*service)(int) = NULL;
    struct sockaddr_in name;
    int listener;
    if (argc == 4) {
        service = strcmp(argv[1], "sink") == 0     ? sink
                  : strcmp(argv[1], "source") == 0 ? source
                  : strcmp(argv[1], "echo") == 0   ? echo
                                                   : NULL;
    }
    if (argc != 4 || (service == NULL && strcmp(argv[1], "short") != 0)) {
        fprintf(stderr, "usage: %s sink|source|echo|short ADDRESS PORT\n", argv[0]);
        return 2;
    }
    name = parse_address(argv[2], argv[3]);
    listener = listening(&name, service == NULL ? SOCK_NONBLOCK : 0);
    printf("ready\n");
    fflush(stdout);
    if (service == NULL)
        serve_short(listener);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            die("accept");
        service(fd);
        close(fd);
    }
}
