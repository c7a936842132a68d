/* The floor of HTTP/2: the least a single-threaded server that leaves the protocol to nghttp2 can do.
 *
 * Rules of this file: one epoll loop, one read, one write of all that the read gave rise to, a fixed answer to
 * every request. nghttp2 reads the frames, HPACK included, and makes them; nobody looks at a header field. So
 * what a real server that is built on nghttp2 adds to this figure is its own. It is a yardstick, never a server:
 * no TLS, no request bodies. perf/peers.py lists the scenarios it may run.
 *
 * Usage: h2_floor PORT (127.0.0.1 only). Ends on SIGTERM by the default action.
 */
#define _GNU_SOURCE
#include <nghttp2/nghttp2.h>
#include <stdint.h>
#include <string.h>

#include "floor.h"

enum { READ_SIZE = 65536, OUT_SIZE = 262144 };

static const uint8_t BODY[] = "Hello, world!";
static nghttp2_session *sessions[MAX_FDS];
static nghttp2_session_callbacks *callbacks;

#define FIELD(name, value) {(uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, sizeof(value) - 1, \
                            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE}

/* The same fields a minimal ASGI app plus a server send, so that the bytes moved are comparable. */
static const nghttp2_nv HEAD[] = {
    FIELD(":status", "200"),
    FIELD("content-type", "text/plain"),
    FIELD("content-length", "13"),
    FIELD("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    FIELD("server", "floor"),
};

static ssize_t read_body(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room, uint32_t *flags,
                         nghttp2_data_source *source, void *user)
{
    (void)session, (void)stream, (void)source, (void)user;
    if (room < sizeof BODY - 1)
        return NGHTTP2_ERR_DEFERRED;
    memcpy(out, BODY, sizeof BODY - 1);
    *flags = NGHTTP2_DATA_FLAG_EOF;
    return sizeof BODY - 1;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    static const nghttp2_data_provider body = {.read_callback = read_body};
    (void)user;
    if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    return nghttp2_submit_response(session, frame->hd.stream_id, HEAD, sizeof HEAD / sizeof *HEAD, &body);
}

static void end(int fd)
{
    nghttp2_session_del(sessions[fd]);
    sessions[fd] = NULL;
    close(fd);
}

/* Writes all that the session has to say. Returns 0, or -1 if it did not fit: a client that does not read is cut. */
static int answer(int fd, nghttp2_session *session)
{
    static uint8_t out[OUT_SIZE];
    const uint8_t *piece;
    size_t filled = 0;
    for (;;) {
        ssize_t size = nghttp2_session_mem_send(session, &piece);
        if (size < 0 || filled + (size_t)size > sizeof out)
            return -1;
        if (size == 0)
            break;
        memcpy(out + filled, piece, (size_t)size);
        filled += (size_t)size;
    }
    return filled == 0 || write(fd, out, filled) == (ssize_t)filled ? 0 : -1;
}

static void serve(int fd)
{
    static uint8_t data[READ_SIZE];
    nghttp2_session *session = sessions[fd];
    ssize_t size = read(fd, data, sizeof data);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0 || nghttp2_session_mem_recv(session, data, (size_t)size) < 0 || answer(fd, session) < 0)
        end(fd);
}

static void begin(int fd)
{
    static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 128}};
    if (nghttp2_session_server_new(&sessions[fd], callbacks, NULL) < 0) {
        close(fd);
        return;
    }
    if (nghttp2_submit_settings(sessions[fd], NGHTTP2_FLAG_NONE, settings, 1) < 0 || answer(fd, sessions[fd]) < 0)
        end(fd);
}

int main(int argc, char **argv)
{
    if (nghttp2_session_callbacks_new(&callbacks) < 0) {
        fputs("h2_floor: no memory\n", stderr);
        return 1;
    }
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    return run(argc, argv, SOCK_NONBLOCK | SOCK_CLOEXEC);
}
