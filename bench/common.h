/* What the bench's C programs share: errors that end the program, addresses, clocks.
 *
 * Not here: anything about what is measured. Linux only, as the devices are.
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK (256 * 1024) /* bytes handed to one send() or recv() of a bulk transfer; the same in server.py */

/* What a request is answered with: a body of 128 bytes; `connection` is a header or nothing. As native.py has it. */
#define ZEROS_16 "0000000000000000"
#define ZEROS_64 ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16
#define HTTP_ANSWER(connection) \
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n" \
    "Content-Length: 128\r\n" connection "\r\n" ZEROS_64 ZEROS_64

static inline void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* Monotonic nanoseconds. */
static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Seconds of user and system time this process has used. */
static inline double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline struct sockaddr_in parse_address(const char *address, const char *port)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, address, &name.sin_addr) != 1) {
        errno = EINVAL;
        die(address);
    }
    return name;
}

static inline void set_option(int fd, int level, int option, int value)
{
    if (setsockopt(fd, level, option, &value, sizeof value) != 0)
        die("setsockopt");
}

static inline void send_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0)
            die("send");
        data += sent;
        size -= (size_t)sent;
    }
}

/* Read exactly `size` bytes; 0 at the end of the stream before that. */
static inline int recv_all(int fd, char *data, size_t size)
{
    while (size > 0) {
        ssize_t got = recv(fd, data, size, 0);
        if (got < 0)
            die("recv");
        if (got == 0)
            return 0;
        data += got;
        size -= (size_t)got;
    }
    return 1;
}

#endif
