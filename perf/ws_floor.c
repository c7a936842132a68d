/* The WebSocket floor: the least a single-threaded server can do for an echoed message on this machine.
 *
 * Rules of this file: one epoll loop; what one read brought is unmasked and goes back with one writev. It
 * believes its client: every frame is taken for a whole masked data message, the handshake's key for the
 * sample of RFC 6455 section 1.3, and nothing but a close frame is told apart. So whatever a real server
 * adds to this figure is what WebSocket, ASGI and Python cost. It is a yardstick, never a server, and it
 * shows that ws_load.c is not the limit.
 *
 * Usage: ws_floor PORT (127.0.0.1 only). Ends on SIGTERM by the default action.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include "floor.h"

enum { SPACE = 512 * 1024, MAX_BATCH = 256, KEY_SIZE = 4, CLOSE = 0x88 };

static const char ACCEPTED[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct connection {
    int fd, open;
    size_t filled;
    unsigned char data[SPACE]; /* the part of a frame that is here already, and room for a read */
};

static struct connection *connections[MAX_FDS];

static void drop(struct connection *c)
{
    close(c->fd);
    free(c);
}

/* XORs eight bytes at a time. */
static void unmask(unsigned char *payload, size_t size, const unsigned char *key)
{
    uint64_t wide, word;
    size_t i = 0;
    memcpy(&wide, key, KEY_SIZE);
    memcpy((unsigned char *)&wide + KEY_SIZE, key, KEY_SIZE);
    for (; i + sizeof word <= size; i += sizeof word) {
        memcpy(&word, payload + i, sizeof word);
        word ^= wide;
        memcpy(payload + i, &word, sizeof word);
    }
    for (; i < size; i++)
        payload[i] ^= key[i % KEY_SIZE];
}

/* Makes the masked frame at `frame` its own echo, in place: without the key it begins KEY_SIZE later.
 * Returns the size of the frame as it came, or 0 if it is not all here. */
static size_t turn(unsigned char *frame, size_t have, struct iovec *echo)
{
    size_t head = 2, size;
    if (have < 2)
        return 0;
    size = frame[1] & 127;
    head += size == 126 ? 2 : size == 127 ? 8 : 0;
    if (have < head + KEY_SIZE)
        return 0;
    if (head > 2) {
        size = 0;
        for (size_t i = 2; i < head; i++)
            size = size << 8 | frame[i];
    }
    if (have - head - KEY_SIZE < size)
        return 0;
    unmask(frame + head + KEY_SIZE, size, frame + head);
    frame[1] &= 127;
    memmove(frame + KEY_SIZE, frame, head);
    *echo = (struct iovec){frame + KEY_SIZE, head + size};
    return head + KEY_SIZE + size;
}

/* Echoes the whole frames there are. Returns -1 when the connection is over. The socket blocks, which is
 * right for a client that always reads. */
static int echo_all(struct connection *c)
{
    struct iovec parts[MAX_BATCH];
    size_t used = 0, size = 1;
    int closing = 0;
    while (size > 0 && !closing) {
        int count = 0;
        ssize_t want = 0;
        while (count < MAX_BATCH && !closing
               && (size = turn(c->data + used, c->filled - used, &parts[count])) > 0) {
            closing = *(unsigned char *)parts[count].iov_base == CLOSE;
            want += (ssize_t)parts[count++].iov_len;
            used += size;
        }
        if (count > 0 && writev(c->fd, parts, count) != want)
            return -1;
    }
    c->filled -= used;
    memmove(c->data, c->data + used, c->filled);
    return closing ? -1 : 0;
}

static int accept_handshake(struct connection *c)
{
    if (c->filled < 4 || memcmp(c->data + c->filled - 4, "\r\n\r\n", 4) != 0)
        return 0;
    c->filled = 0;
    c->open = 1;
    return write(c->fd, ACCEPTED, sizeof ACCEPTED - 1) == sizeof ACCEPTED - 1 ? 0 : -1;
}

static void serve(int fd)
{
    struct connection *c = connections[fd];
    ssize_t size = recv(c->fd, c->data + c->filled, SPACE - c->filled, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size > 0)
        c->filled += (size_t)size;
    if (size <= 0 || (c->open ? echo_all(c) : accept_handshake(c)) < 0)
        drop(c);
}

static void begin(int fd)
{
    struct connection *c = malloc(sizeof *c);
    if (c == NULL) {
        close(fd);
        return;
    }
    c->fd = fd;
    c->open = 0;
    c->filled = 0;
    connections[fd] = c;
}

int main(int argc, char **argv)
{
    return run(argc, argv, SOCK_CLOEXEC);
}
