/* What the C load generators have in common: how they fail, the clock, a connection to 127.0.0.1 in the loop,
 * fields of a response head, numbers among the options, and the talk that perf/load.py has with them.
 *
 * Rules of this file: included once by each program; a wire is the first member of the program's own struct
 * connection, so that an event's pointer is both. Nothing here sends, counts or times.
 */
#ifndef PERF_CLIENT_H
#define PERF_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_EVENTS = 256, READ_SIZE = 256 * 1024, MAX_CONNECTIONS = 20000 };

struct wire {
    int fd, number, wants_write;
};

static int epoll_fd;

/* The only way out of trouble; `wire` may be NULL. */
__attribute__((noreturn, format(printf, 2, 3))) static inline void fail(const struct wire *wire, const char *format,
                                                                        ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    if (wire != NULL)
        fprintf(stderr, "connection %d: ", wire->number);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static inline int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Zeroed. */
static inline void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL)
        fail(NULL, "no memory");
    return memory;
}

/* The socket blocks, for at most the time-out, until watch() has it. */
static inline void connect_to(struct wire *wire, int port, double timeout_s)
{
    int on = 1;
    struct timeval limit = {.tv_sec = (time_t)timeout_s, .tv_usec = (suseconds_t)(timeout_s * 1e6) % 1000000};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    wire->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (wire->fd < 0 || setsockopt(wire->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0
        || setsockopt(wire->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0
        || setsockopt(wire->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0
        || connect(wire->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail(wire, "connect: %s", strerror(errno));
}

static inline void watch(struct wire *wire)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = wire};
    if (fcntl(wire->fd, F_SETFL, O_NONBLOCK) < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, wire->fd, &event) < 0)
        fail(wire, "%s", strerror(errno));
    wire->wants_write = 0;
}

static inline void want_write(struct wire *wire, int wants_write)
{
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.ptr = wire};
    if (wire->wants_write == wants_write)
        return;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, wire->fd, &event) < 0)
        fail(wire, "epoll_ctl: %s", strerror(errno));
    wire->wants_write = wants_write;
}

/* Returns the value of a field of a response head (without the space before it), or NULL. */
static inline const char *field(const char *head, const char *name)
{
    size_t size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        const char *start = line + 2;
        if (strncasecmp(start, name, size) == 0 && start[size] == ':') {
            start += size + 1;
            return start + strspn(start, " \t");
        }
    }
    return NULL;
}

static inline double number(const char *text, const char *name, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= low && value <= high))
        fail(NULL, "--%s takes a number from %g to %g, not %s", name, low, high, text);
    return value;
}

/* With --hold: we are open and warm, and wait for the word to begin. */
static inline void wait_for_start(void)
{
    puts("ready");
    fflush(stdout);
    getchar();
}

/* With --hold, behind the result: the connections stay open until standard input ends. */
static inline void wait_for_end(void)
{
    while (getchar() != EOF)
        continue;
}

#endif
