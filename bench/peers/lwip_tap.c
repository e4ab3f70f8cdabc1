/* The services on lwIP (Debian's liblwip-dev), by its raw API, on a TAP without offloads: a peer of the comparison.
 *
 *     lwip_tap sink|source|echo|short|reply FD ADDRESS PORT       FD: of the TAP, non-blocking
 *
 * Prints "ready" and serves until it is killed. The library is as Debian built it (TCP_WND and TCP_SND_BUF of 64 KB).
 * One thread reads the device and runs the stack under lwIP's core lock; lwIP's own thread has only the timers to do.
 * Without common.h: lwIP has names of the system's headers for itself.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <lwip/etharp.h>
#include <lwip/ethip6.h>
#include <lwip/netif.h>
#include <lwip/tcp.h>
#include <lwip/tcpip.h>
#include <netif/ethernet.h>

#define FRAME_MAX 1518
#define BATCH 64 /* frames taken for one acquisition of the lock */
#define PIECES 16

static struct netif netif;
static int tap;
static char block[65535];

/* -- the device */

static err_t tap_output(struct netif *out, struct pbuf *p)
{
    struct iovec iov[PIECES];
    int n = 0;
    (void)out;
    for (; p != NULL && n < PIECES; p = p->next, n++) {
        iov[n].iov_base = p->payload;
        iov[n].iov_len = p->len;
    }
    return writev(tap, iov, n) < 0 ? ERR_IF : ERR_OK;
}

static err_t tap_init(struct netif *made)
{
    static const u8_t mac[6] = {2, 0, 0, 0, 0, 2};
    memcpy(made->hwaddr, mac, sizeof mac);
    made->hwaddr_len = sizeof mac;
    made->name[0] = 't';
    made->name[1] = 'p';
    made->mtu = 1500;
    made->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
    made->output = etharp_output;
    made->output_ip6 = ethip6_output;
    made->linkoutput = tap_output;
    return ERR_OK;
}

/* Whether there was a frame. */
static int take_frame(void)
{
    struct pbuf *p = pbuf_alloc(PBUF_RAW, FRAME_MAX, PBUF_RAM);
    ssize_t got;
    if (p == NULL)
        return 0;
    got = read(tap, p->payload, FRAME_MAX);
    if (got <= 0) {
        pbuf_free(p);
        return 0;
    }
    pbuf_realloc(p, (u16_t)got);
    if (netif.input(p, &netif) != ERR_OK)
        pbuf_free(p);
    return 1;
}

static void run(void)
{
    struct pollfd wait = {.fd = tap, .events = POLLIN};
    for (;;) {
        int n = 0;
        LOCK_TCPIP_CORE();
        while (n < BATCH && take_frame())
            n++;
        UNLOCK_TCPIP_CORE();
        if (n < BATCH)
            poll(&wait, 1, -1);
    }
}

/* -- the services */

static err_t sink_received(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t error)
{
    u64_t *total = arg;
    unsigned char count[8];
    if (p != NULL) {
        *total += p->tot_len;
        tcp_recved(pcb, p->tot_len);
        pbuf_free(p);
        return ERR_OK;
    }
    for (int i = 0; i < 8; i++)
        count[i] = (unsigned char)(*total >> (56 - 8 * i));
    (void)error;
    tcp_write(pcb, count, sizeof count, TCP_WRITE_FLAG_COPY);
    tcp_arg(pcb, NULL);
    free(total);
    return tcp_close(pcb);
}

static void source_fill(struct tcp_pcb *pcb)
{
    u16_t room;
    while ((room = (u16_t)LWIP_MIN(tcp_sndbuf(pcb), sizeof block)) > 0)
        if (tcp_write(pcb, block, room, TCP_WRITE_FLAG_COPY) != ERR_OK)
            break;
    tcp_output(pcb);
}

static err_t source_sent(void *arg, struct tcp_pcb *pcb, u16_t bytes)
{
    (void)arg;
    (void)bytes;
    source_fill(pcb);
    return ERR_OK;
}

static err_t echo_received(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t error)
{
    (void)arg;
    (void)error;
    if (p == NULL)
        return tcp_close(pcb);
    for (struct pbuf *q = p; q != NULL; q = q->next)
        tcp_write(pcb, q->payload, q->len, TCP_WRITE_FLAG_COPY);
    tcp_recved(pcb, p->tot_len);
    pbuf_free(p);
    return ERR_OK;
}

static err_t short_received(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t error)
{
    (void)arg;
    (void)error;
    if (p != NULL) {
        tcp_recved(pcb, p->tot_len);
        pbuf_free(p);
        tcp_write(pcb, "!", 1, TCP_WRITE_FLAG_COPY);
    }
    tcp_recv(pcb, NULL);
    return tcp_close(pcb);
}

static err_t accepted(void *service, struct tcp_pcb *pcb, err_t error)
{
    if (error != ERR_OK || pcb == NULL)
        return ERR_VAL;
    tcp_nagle_disable(pcb);
    if (strcmp(service, "source") == 0) {
        tcp_sent(pcb, source_sent);
        source_fill(pcb);
    } else if (strcmp(service, "sink") == 0) {
        tcp_arg(pcb, calloc(1, sizeof(u64_t)));
        tcp_recv(pcb, sink_received);
    } else if (strcmp(service, "echo") == 0 || strcmp(service, "reply") == 0) {
        tcp_recv(pcb, echo_received);
    } else {
        tcp_recv(pcb, short_received);
    }
    return ERR_OK;
}

static void listen_on(char *service, u16_t port)
{
    struct tcp_pcb *pcb = tcp_new();
    if (pcb == NULL || tcp_bind(pcb, IP_ANY_TYPE, port) != ERR_OK || (pcb = tcp_listen(pcb)) == NULL) {
        fprintf(stderr, "lwIP does not listen on port %d\n", port);
        exit(1);
    }
    tcp_arg(pcb, service);
    tcp_accept(pcb, accepted);
}

static void started(void *semaphore)
{
    sys_sem_signal(semaphore);
}

int main(int argc, char **argv)
{
    ip4_addr_t address, mask, gateway;
    sys_sem_t semaphore;
    if (argc != 5 || !ip4addr_aton(argv[3], &address)) {
        fprintf(stderr, "usage: %s sink|source|echo|short|reply FD ADDRESS PORT\n", argv[0]);
        return 2;
    }
    tap = atoi(argv[2]);
    IP4_ADDR(&mask, 255, 255, 255, 0);
    ip4_addr_set_zero(&gateway);
    if (sys_sem_new(&semaphore, 0) != ERR_OK)
        return 1;
    tcpip_init(started, &semaphore);
    sys_sem_wait(&semaphore);
    LOCK_TCPIP_CORE();
    netif_add(&netif, &address, &mask, &gateway, NULL, tap_init, ethernet_input);
    netif_set_up(&netif);
    listen_on(argv[1], (u16_t)atoi(argv[4]));
    UNLOCK_TCPIP_CORE();
    printf("ready\n");
    fflush(stdout);
    run();
}
