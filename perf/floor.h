/* What the floors have in common: the listening socket and the loop around it.
 *
 * Rules of this file: included once by each floor, which has the two functions declared here; one epoll loop,
 * level-triggered, one thread; a connection is its descriptor, below MAX_FDS, so that what a floor knows of it
 * lies in an array.
 */
#ifndef PERF_FLOOR_H
#define PERF_FLOOR_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FDS = 65536, MAX_EVENTS = 256, BACKLOG = 1024 };

/* A connection is open and in the loop; close() takes it out. */
static void begin(int fd);

/* There is something to read. */
static void serve(int fd);

static inline int listen_on(int port)
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

static inline int watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static inline void accept_one(int epoll, int listener, int flags)
{
    int on = 1, fd = accept4(listener, NULL, NULL, flags);
    if (fd < 0)
        return;
    if (fd >= MAX_FDS || watch(epoll, fd) < 0) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    begin(fd);
}

/* All of a floor's main(); `flags` are those of an accepted socket. Returns only if it cannot listen. */
static inline int run(int argc, char **argv, int flags)
{
    struct epoll_event events[MAX_EVENTS];
    int listener = argc == 2 ? listen_on(atoi(argv[1])) : -1;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (listener < 0 || epoll < 0 || watch(epoll, listener) < 0) {
        const char *name = program_invocation_short_name;
        fprintf(stderr, "%s: cannot listen (usage: %s PORT): %m\n", name, name);
        return 1;
    }
    for (;;) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                accept_one(epoll, listener, flags);
            else
                serve(events[i].data.fd);
        }
    }
}

#endif
