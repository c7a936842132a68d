/* nghttp2's callbacks on the way in: they note what came, and run no app. See http2.h.
 *
 * NGHTTP2_ERR_CALLBACK_FAILURE means: an exception is pending, the connection is over.
 */
#include "http2_stream.h"

#ifdef SHARDSERVE_NGHTTP2

#include "account.h"
#include "fields.h"
#include "pieces.h"

static Stream *
stream_by_id(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

/* ---- heads ---- */

/* No more of these fields matters: they are decoded for the table's sake, and not looked at. For a callback to return. */
static int
give_up(Connection *connection, int32_t id, uint32_t code)
{
    Http2 *http2 = connection->http2;
    http2->incoming = NULL;
    http2->fields_of = 0;
    (void)nghttp2_submit_rst_stream(http2->session, NGHTTP2_FLAG_NONE, id, code);
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

/* Whether another request may begin: apps whose streams are gone still count (RFC 9113 §10.5). */
static bool
has_room(const Connection *connection)
{
    const Http2 *http2 = connection->http2;
    return http2->stream_count + http2->unfinished < connection->factory->limits.http2_max_concurrent_streams;
}

int
http2_on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    Connection *connection = user;
    Http2 *http2 = connection->http2;
    http2->incoming = NULL;
    http2->fields_of = frame->hd.stream_id;
    http2->field_bytes = 0;
    if (frame->hd.type != NGHTTP2_HEADERS || http2->ended)
        return 0;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0; /* trailers */
    if (UNLIKELY(http2->goaway == GOAWAY_FINAL && frame->hd.stream_id > http2->last_id)) {
        /* The GOAWAY that gives it back has not been sent yet, else nghttp2 would drop it: its client may begin it anew. */
        return give_up(connection, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
    }
    if (UNLIKELY(!has_room(connection))) {
        guard_reset(connection);
        return give_up(connection, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
    }
    Stream *stream = stream_new(connection, frame->hd.stream_id);
    if (stream == NULL)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    stream->cycle->begun_ns = account_now_ns();
    fields_begin(connection);
    http2->incoming = stream;
    return nghttp2_session_set_stream_user_data(session, stream->id, stream) == 0 ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

/* Fields, or trailers, that are so many times what we take that looking at them all, only to refuse them, costs too much:
 * a byte on the wire can be 4 KiB of them (RFC 7541 §7.3). */
#define BOMB_TIMES 4
#define BOMB_LEAST_BYTES 65536

static bool
is_bomb(Connection *connection, nghttp2_rcbuf *name, nghttp2_rcbuf *value)
{
    Http2 *http2 = connection->http2;
    http2->field_bytes += (int64_t)(nghttp2_rcbuf_get_buf(name).len + nghttp2_rcbuf_get_buf(value).len);
    return http2->field_bytes > BOMB_LEAST_BYTES &&
           http2->field_bytes > BOMB_TIMES * connection->factory->limits.http2_max_header_list_size;
}

int
http2_on_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value,
                uint8_t flags, void *user)
{
    Connection *connection = user;
    Stream *stream = connection->http2->incoming;
    (void)session;
    (void)flags;
    if (UNLIKELY(is_bomb(connection, name, value))) {
        guard_reset(connection);
        return give_up(connection, frame->hd.stream_id, NGHTTP2_ENHANCE_YOUR_CALM);
    }
    if (stream == NULL || stream->reject_status != 0)
        return 0; /* trailers are dropped (RFC 9110 §6.5.1), and what is refused is not looked at */
    nghttp2_vec name_text = nghttp2_rcbuf_get_buf(name);
    nghttp2_vec value_text = nghttp2_rcbuf_get_buf(value);
    if (stream->cycle == NULL)
        return 0;
    Cycle *cycle = (Cycle *)Py_NewRef(stream->cycle);
    int result = request2_take(stream, cycle, &name_text, &value_text);
    cycle_release(cycle);
    return result < 0 ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

int
http2_on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value,
                        uint8_t flags, void *user)
{
    (void)session;
    (void)name;
    (void)value;
    (void)flags;
    /* RFC 9113 §8.2.1: a request with such a field is malformed; nghttp2 would leave the field out. */
    return give_up(user, frame->hd.stream_id, NGHTTP2_PROTOCOL_ERROR);
}

/* A request body, or a WebSocket's input, is complete. May run Python, but no app. */
static void
end_input(Stream *stream)
{
    Cycle *cycle = (Cycle *)Py_XNewRef(stream->reject_status == 0 ? stream->cycle : NULL);
    stream->input_done = true;
    if (stream->tunnel != NULL)
        stream_note(stream);
    if (cycle == NULL)
        return; /* answered; or refused, and then what the app has of the body is not the whole */
    cycle_feed_end(cycle);
    cycle_release(cycle);
}

/* HEADERS are complete. 0, or -1 with an exception. */
static int
take_head(Connection *connection, Stream *stream, const nghttp2_frame *frame)
{
    bool last = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        stream->input_done = last;
        Cycle *cycle = (Cycle *)Py_XNewRef(stream->cycle);
        if (cycle == NULL)
            return 0;
        cycle->body_complete = last;
        int result = request2_complete(stream, cycle);
        cycle_release(cycle);
        if (result < 0)
            return -1;
        list_append(&connection->http2->ready, &stream->queue);
    }
    else if (last) {
        end_input(stream);
    }
    return 0;
}

/* ---- bodies ---- */

/* A body is larger than we take. The app is told when nghttp2 is off the stack. */
static void
too_large(Stream *stream)
{
    stream->reject_status = 413;
    stream->reject_reason = "the request body is larger than limit-request-body";
    stream_note(stream);
}

int
http2_on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t length, void *user)
{
    Connection *connection = user;
    Stream *stream = stream_by_id(session, id);
    (void)flags;
    if (stream == NULL || connection->http2->ended) {
        (void)nghttp2_session_consume(session, id, length);
        return 0;
    }
    stream->received += (int64_t)length;
    stream->unconsumed += (int64_t)length;
    if (stream->tunnel != NULL)
        return tunnel_feed(stream, data, length) < 0 ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
    if (stream->received > connection->factory->limits.request_body && stream->reject_status == 0 && !stream->websocket)
        too_large(stream);
    if (stream->end_sent) {
        /* Nobody wants it: the client may send what our window allows, and no more. */
        stream->unconsumed -= (int64_t)length;
        (void)nghttp2_session_consume_connection(session, length);
        return 0;
    }
    if (stream->cycle == NULL || stream->reject_status != 0) {
        stream_consume(stream, (int64_t)length);
        return 0;
    }
    Cycle *cycle = (Cycle *)Py_NewRef(stream->cycle);
    int joined = pieces_add_small(connection->factory->state, &cycle->body, data, length);
    if (joined > 0) {
        cycle->body_bytes += length;
        cycle->body_received += (int64_t)length;
    }
    PyObject *bytes = joined != 0 ? NULL : PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)length);
    int result = joined != 0 ? joined : bytes == NULL ? -1 : cycle_feed_body(cycle, bytes);
    Py_XDECREF(bytes);
    cycle_release(cycle);
    return result < 0 ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* ---- frames ---- */

/* A response that has begun and is so old was none that is opened to be reset. */
#define BEGUN_MS 1000

static void
take_reset(Connection *connection, Stream *stream)
{
    /* One that was answered has cost its peer as much as us: the two have crossed. And what has begun may be left: a page with
     * its event streams, a WebSocket that was used. */
    bool used = stream != NULL && stream->head_given &&
                (stream->tunnel != NULL ? stream->received > 0 : factory_now_ms() - stream->begun_ms >= BEGUN_MS);
    if (stream == NULL || stream->end_sent || used)
        guard_control(connection);
    else
        guard_reset(connection);
}

static void
take_ping(Connection *connection, const nghttp2_frame *frame)
{
    Http2 *http2 = connection->http2;
    if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0)
        guard_control(connection);
    else if (http2_is_drain_ping(frame->ping.opaque_data))
        http2_last_goaway(connection); /* the first is answered */
    else
        http2->ping_ms = 0;
}

/* A frame that costs its sender nothing: small windows are opened byte by byte, DATA without data. */
#define SMALL_WINDOW_BYTES 1024

int
http2_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    Connection *connection = user;
    Http2 *http2 = connection->http2;
    Stream *stream = frame->hd.stream_id == 0 ? NULL : stream_by_id(session, frame->hd.stream_id);
    if (http2->ended)
        return 0;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        http2->fields_of = 0;
        http2->incoming = NULL;
        if (stream != NULL && take_head(connection, stream, frame) < 0)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        break;
    case NGHTTP2_DATA:
        if (frame->hd.length == frame->data.padlen && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
            guard_control(connection);
        if (stream != NULL && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
            end_input(stream);
        break;
    case NGHTTP2_RST_STREAM: take_reset(connection, stream); break;
    case NGHTTP2_PING: take_ping(connection, frame); break;
    case NGHTTP2_SETTINGS:
        http2->greeted = true;
        guard_control(connection);
        break;
    case NGHTTP2_WINDOW_UPDATE:
        if (frame->window_update.window_size_increment < SMALL_WINDOW_BYTES)
            guard_control(connection);
        break;
    default: guard_control(connection); break;
    }
    return 0;
}

int
http2_on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    Connection *connection = user;
    Stream *stream = stream_by_id(session, id);
    (void)code;
    if (connection->http2->fields_of == id)
        connection->http2->fields_of = 0;
    if (stream == NULL)
        return 0;
    stream->closed = true;
    connection->http2->open_count--;
    if (connection->http2->incoming == stream)
        connection->http2->incoming = NULL;
    list_append(&connection->http2->closed, &stream->queue); /* it leaves `ready`: its app never ran */
    return 0;
}

#endif
