/* The floor: the least a single-threaded server can do for a request on this machine.
 *
 * Rules of this file: one epoll loop, one read, one writev of a head and a body, a fixed answer. It
 * looks for the blank line that ends a request head and for nothing else, so whatever a real server
 * adds to this figure is what HTTP, ASGI and Python cost. It is a yardstick, never a server: requests
 * with a body and "Connection: close" are beyond it. perf/peers.py lists the scenarios it may run.
 *
 * Usage: floor PORT (127.0.0.1 only). Ends on SIGTERM by the default action.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_FDS = 65536, MAX_EVENTS = 256, READ_SIZE = 65536, MAX_BATCH = 256, BACKLOG = 1024 };

/* The same headers a minimal ASGI app plus a server send, so that the bytes moved are comparable. */
static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n"
                           "date: Thu, 01 Jan 1970 00:00:00 GMT\r\nserver: floor\r\n\r\n";
static const char BODY[] = "Hello, world!";

/* How many bytes of "\r\n\r\n" the last read of each connection ended with. */
static unsigned char matched[MAX_FDS];

/* Returns the number of request heads that end in data; keeps the partial match of fd. */
static int count_heads(int fd, const char *data, ssize_t size)
{
    unsigned state = matched[fd];
    int heads = 0;
    for (ssize_t i = 0; i < size; i++) {
        if (data[i] == ((state & 1) ? '\n' : '\r')) {
            if (++state == 4) {
                heads++;
                state = 0;
            }
        } else {
            state = data[i] == '\r';
        }
    }
    matched[fd] = (unsigned char)state;
    return heads;
}

/* Writes n answers. Returns 0, or -1 if they did not all fit: a client that does not read is cut. */
static int answer(int fd, int n)
{
    static struct iovec parts[2 * MAX_BATCH];
    while (n > 0) {
        int batch = n < MAX_BATCH ? n : MAX_BATCH;
        ssize_t want = (ssize_t)batch * (ssize_t)(sizeof HEAD - 1 + sizeof BODY - 1);
        for (int i = 0; i < batch; i++) {
            parts[2 * i] = (struct iovec){(void *)HEAD, sizeof HEAD - 1};
            parts[2 * i + 1] = (struct iovec){(void *)BODY, sizeof BODY - 1};
        }
        if (writev(fd, parts, 2 * batch) != want)
            return -1;
        n -= batch;
    }
    return 0;
}

static void serve(int fd)
{
    static char data[READ_SIZE];
    ssize_t size = read(fd, data, sizeof data);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0 || answer(fd, count_heads(fd, data, size)) < 0)
        close(fd);
}

static void accept_one(int epoll, int listener)
{
    int on = 1;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (fd >= MAX_FDS) {
        close(fd);
        return;
    }
    matched[fd] = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        close(fd);
}

static int listen_on(int port)
{
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0
        || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, BACKLOG) < 0)
        return -1;
    return listener;
}

int main(int argc, char **argv)
{
    struct epoll_event events[MAX_EVENTS];
    int listener = argc == 2 ? listen_on(atoi(argv[1])) : -1;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (listener < 0 || epoll < 0) {
        perror("floor: cannot listen (usage: floor PORT)");
        return 1;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0) {
        perror("floor: epoll_ctl");
        return 1;
    }
    for (;;) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                accept_one(epoll, listener);
            else
                serve(events[i].data.fd);
        }
    }
}
