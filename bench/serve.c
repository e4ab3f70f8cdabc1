/* The services on kernel sockets, in C: what the kernel's TCP can do when its program is not the bottleneck.
 *
 *     serve sink|source|echo|short|reply|http|http-close ADDRESS PORT
 *
 * Prints "ready" and serves until it is killed: sink, source and echo one connection after the other, the rest many
 * at a time by epoll. short answers a byte and closes; reply answers until the client closes; http answers each
 * request with the same 128 bytes, http-close just one.
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

/* -- many connections at a time: each of these returns whether the connection is over */

static int answer_once(int fd)
{
    char request;
    if (recv(fd, &request, 1, 0) < 0 && errno == EAGAIN)
        return 0;
    send(fd, "!", 1, MSG_NOSIGNAL);
    return 1;
}

static int reply(int fd)
{
    char data[2048];
    ssize_t got = recv(fd, data, sizeof data, 0);
    if (got > 0)
        return send(fd, data, (size_t)got, MSG_NOSIGNAL) != got;
    return got == 0 || errno != EAGAIN;
}

/* A request ends with an empty line, and wrk waits for each answer: more than one never comes at once. */
static int answer_http(int fd, const char *answer, size_t size, int closes)
{
    char request[2048];
    ssize_t got = recv(fd, request, sizeof request, 0);
    if (got < 0)
        return errno != EAGAIN;
    if (got < 4 || memcmp(request + got - 4, "\r\n\r\n", 4) != 0)
        return got == 0;
    return send(fd, answer, size, MSG_NOSIGNAL) != (ssize_t)size || closes;
}

static int http(int fd)
{
    static const char answer[] = HTTP_ANSWER("");
    return answer_http(fd, answer, sizeof answer - 1, 0);
}

static int http_close(int fd)
{
    static const char answer[] = HTTP_ANSWER("Connection: close\r\n");
    return answer_http(fd, answer, sizeof answer - 1, 1);
}

static void serve_many(int listener, int (*service)(int))
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
                if (service(fd))
                    close(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                event.data.fd = fd;
                if (service(fd))
                    close(fd);
                else if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
                    die("epoll_ctl");
            }
        }
    }
}

static void serve(int listener, void (*service)(int))
{
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            die("accept");
        service(fd);
        close(fd);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*one)(int);
        int (*many)(int);
    } services[] = {{"sink", sink, NULL},
                    {"source", source, NULL},
                    {"echo", echo, NULL},
                    {"short", NULL, answer_once},
                    {"reply", NULL, reply},
                    {"http", NULL, http},
                    {"http-close", NULL, http_close}};
    for (size_t i = 0; argc == 4 && i < sizeof services / sizeof *services; i++) {
        struct sockaddr_in name;
        int listener;
        if (strcmp(argv[1], services[i].name) != 0)
            continue;
        name = parse_address(argv[2], argv[3]);
        listener = listening(&name, services[i].many ? SOCK_NONBLOCK : 0);
        printf("ready\n");
        fflush(stdout);
        if (services[i].many)
            serve_many(listener, services[i].many);
        else
            serve(listener, services[i].one);
    }
    fprintf(stderr, "usage: %s sink|source|echo|short|reply|http|http-close ADDRESS PORT\n", argv[0]);
    return 2;
}
