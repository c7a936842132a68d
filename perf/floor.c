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
#include <sys/uio.h>

#include "floor.h"

enum { READ_SIZE = 65536, MAX_BATCH = 256 };

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

static void begin(int fd)
{
    matched[fd] = 0;
}

int main(int argc, char **argv)
{
    return run(argc, argv, SOCK_NONBLOCK | SOCK_CLOEXEC);
}
