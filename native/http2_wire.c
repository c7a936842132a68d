/* The wire of HTTP/2: how a cycle's response becomes frames. See http2.h.
 *
 * In the order bytes move: head, body, files, trailers; then what nghttp2 asks for when it may send them.
 */
#include "http2_stream.h"

#ifdef SHARDSERVE_NGHTTP2

#include "account.h"
#include "await.h"
#include "file.h"
#include "head.h"
#include "output.h"

#include <unistd.h>

static inline Stream *
stream_of(const Cycle *cycle)
{
    CHECK(cycle->lane != NULL);
    return cycle->lane;
}

/* The WebSocket's own connection; NULL: it is none. */
static Connection *
websocket_connection(const Cycle *cycle)
{
    Connection *connection = (Connection *)cycle->stream;
    return connection->tunnelled ? connection : NULL;
}

void
wire2_flush(Connection *connection)
{
    if (connection->corked)
        return;
    Py_INCREF(connection);
    output_flush(connection);
    connection_check(connection);
    Py_DECREF(connection);
}

/* ---- heads ---- */

int
wire2_take_head(Stream *stream, Cycle *cycle, int status, PyObject *fields, HeadFacts *facts)
{
    Factory *factory = cycle->factory;
    HeadBlock *block = head2_encode(factory, status, fields, facts);
    if (block == NULL)
        return -1;
    if (account_head(cycle, fields) < 0) {
        head2_free(factory->http2, block);
        return -1;
    }
    head2_free(factory->http2, stream->block);
    stream->block = block;
    return 0;
}

static int
wire2_head(Cycle *cycle, int status, PyObject *fields)
{
    return wire2_take_head(stream_of(cycle), cycle, status, fields, &cycle->facts);
}

void
wire2_give_head(Stream *stream, bool body)
{
    Http2 *http2 = stream->connection->http2;
    const nghttp2_data_provider provider = {.source = {.ptr = stream}, .read_callback = http2_on_read};
    stream->head_given = true;
    if (stream->closed || stream->reset || http2->session == NULL)
        return;
    if (nghttp2_submit_response(http2->session, stream->id, stream->block->nv, stream->block->count,
                                body ? &provider : NULL) != 0)
        stream_reset(stream, NGHTTP2_INTERNAL_ERROR);
}

void
wire2_continue(Stream *stream)
{
    Http2 *http2 = stream->connection->http2;
    if (!stream->deferred || stream->closed || http2->session == NULL)
        return;
    stream->deferred = false;
    (void)nghttp2_session_resume_data(http2->session, stream->id);
}

/* The first of a body: what the app left to us goes behind its fields. */
static void
end_head(Stream *stream, Cycle *cycle, int64_t length, bool more)
{
    int64_t content_length = -1;
    PyObject *id = cycle->has_own_id ? NULL : cycle->request_id;
    if (more)
        cycle->first_byte_ns = account_now_ns();
    if (cycle->no_body)
        content_length = cycle->status == 205 ? 0 : -1; /* RFC 9110 §15.3.6 */
    else if (cycle->facts.content_length < 0 && !more)
        content_length = length;
    head2_end(stream->connection->factory, stream->block, &cycle->facts, id, content_length);
}

/* Output was queued, or ended: nghttp2 hears of it. */
static void
go_on(Stream *stream)
{
    if (stream->head_given)
        wire2_continue(stream);
    else
        wire2_give_head(stream, stream->queued > 0 || stream->file >= 0 || !stream->ended);
}

/* ---- bodies ---- */

static int
wire2_body(Cycle *cycle, PyObject *bytes, bool more)
{
    Stream *stream = stream_of(cycle);
    Connection *connection = stream->connection;
    if (!cycle->no_body && stream_queue(stream, bytes) < 0)
        return -1;
    Py_INCREF(connection);
    if (!stream->head_given)
        end_head(stream, cycle, PyBytes_GET_SIZE(bytes), more);
    stream->ended = !more;
    go_on(stream);
    if (stream->tunnel != NULL)
        tunnel_queued(stream);
    if (!more)
        wire2_response_done(stream, cycle);
    wire2_flush(connection);
    Py_DECREF(connection);
    return 0;
}

static int
wire2_file(Cycle *cycle, int fd, int64_t offset, int64_t length, bool more)
{
    Stream *stream = stream_of(cycle);
    Connection *connection = stream->connection;
    if (length <= FILE_SMALL_BYTES || cycle->no_body)
        return file_send_small(cycle, fd, offset, cycle->no_body ? 0 : length, more);
    CHECK(stream->file < 0);
    Py_INCREF(connection);
    if (!stream->head_given)
        end_head(stream, cycle, length, more);
    if (cycle->first_byte_ns == 0)
        cycle->first_byte_ns = account_now_ns();
    stream->file = fd;
    stream->file_offset = offset;
    stream->file_left = length;
    stream->file_more = more;
    stream->progress_ms = factory_now_ms();
    cycle->sending_file = true;
    go_on(stream);
    wire2_flush(connection);
    Py_DECREF(connection);
    return 0;
}

/* ---- behind and before a response ---- */

static int
wire2_trailers(Cycle *cycle, PyObject *fields, bool more)
{
    Stream *stream = stream_of(cycle);
    Connection *connection = stream->connection;
    Factory *factory = connection->factory;
    HeadBlock *block = head2_encode_trailers(factory, fields);
    if (block != NULL && stream->trailers != NULL)
        block = head2_join(factory->http2, stream->trailers, block);
    if (block == NULL)
        return -1;
    stream->trailers = block;
    cycle->trailers_begun = true;
    if (more)
        return 0;
    Py_INCREF(connection);
    stream->ended = true;
    wire2_continue(stream);
    cycle->response = RESPONSE_DONE;
    wire2_response_done(stream, cycle);
    wire2_flush(connection);
    Py_DECREF(connection);
    return 0;
}

/* An interim response (RFC 9110 §15.2), which does not outlive the call: nghttp2 copies it. 0, or -1 with MemoryError. */
static int
send_interim(Stream *stream, HeadBlock *block)
{
    Http2 *http2 = stream->connection->http2;
    int result = 0;
    for (size_t i = 0; i < block->count; i++)
        block->nv[i].flags = NGHTTP2_NV_FLAG_NONE;
    if (!stream->closed && !stream->reset && http2->session != NULL)
        result = nghttp2_submit_headers(http2->session, NGHTTP2_FLAG_NONE, stream->id, NULL, block->nv, block->count, NULL);
    head2_free(stream->connection->factory->http2, block);
    if (result != NGHTTP2_ERR_NOMEM)
        return 0;
    PyErr_NoMemory();
    return -1;
}

static int
wire2_hint(Cycle *cycle, PyObject *links)
{
    Stream *stream = stream_of(cycle);
    Connection *connection = stream->connection;
    HeadBlock *block = head2_encode_links(connection->factory, links);
    if (block == NULL || send_interim(stream, block) < 0)
        return -1;
    Py_INCREF(connection);
    output_flush(connection); /* corked or not: a hint is for the time until the response */
    connection_check(connection);
    Py_DECREF(connection);
    return 0;
}

static int
wire2_want_body(Cycle *cycle)
{
    Connection *inner = websocket_connection(cycle);
    if (inner != NULL) {
        Py_INCREF(inner);
        connection_adjust_reading(inner);
        if (inner->unparsed != NULL)
            connection_schedule_resume(inner);
        Py_DECREF(inner);
        return 0;
    }
    Stream *stream = stream_of(cycle);
    Connection *connection = stream->connection;
    if (!cycle->expects_continue || cycle->response != RESPONSE_NONE)
        return 0;
    cycle->expects_continue = false; /* RFC 9110 §10.1.1: only now does the app want it */
    HeadBlock *block = head2_status(connection->factory, 100);
    if (block == NULL || send_interim(stream, block) < 0)
        return -1;
    wire2_flush(connection);
    return 0;
}

static void
wire2_took_body(Cycle *cycle, size_t length)
{
    Stream *stream = stream_of(cycle);
    if (guard_may_wait(stream)) { /* for min-request-body-rate: it could not send until now */
        stream->window_ms = factory_now_ms();
        stream->window_received = stream->received;
    }
    stream_consume(stream, (int64_t)length);
    if (!stream->connection->corked)
        connection_schedule_resume(stream->connection); /* WINDOW_UPDATE; sending it here may run Python */
}

/* ---- done, failed, cut ---- */

void
wire2_response_done(Stream *stream, Cycle *cycle)
{
    Connection *connection = stream->connection;
    stream_consume(stream, stream->unconsumed);
    cycle->lane = NULL;
    Py_CLEAR(cycle->stream);
    if (stream->tunnel != NULL)
        connection = tunnel_denied(stream);
    stream->cycle = NULL;
    account_response(connection, cycle);
    cycle_release(cycle); /* the stream's, or the tunnel's connection's */
}

static void
wire2_fail(Cycle *cycle)
{
    Stream *stream = stream_of(cycle);
    Connection *connection = stream->connection;
    Py_INCREF(connection);
    account_answered(cycle, 500);
    request2_answer(stream, 500, head_reason(500), cycle->request_id);
    wire2_response_done(stream, cycle);
    wire2_flush(connection);
    Py_DECREF(connection);
}

static void
wire2_cut(Cycle *cycle)
{
    Stream *stream = stream_of(cycle);
    Connection *connection = stream->connection;
    Py_INCREF(connection);
    (void)http2_fill(connection); /* RST_STREAM would overtake what the app has sent */
    if (cycle->lane != NULL) {
        cycle->sending_file = false;
        stream_drop_output(stream);
        stream_reset(stream, NGHTTP2_INTERNAL_ERROR);
        wire2_response_done(stream, cycle);
    }
    wire2_flush(connection);
    Py_DECREF(connection);
}

/* ---- back-pressure ---- */

static bool
wire2_congested(const Cycle *cycle)
{
    const Connection *inner = websocket_connection(cycle);
    if (inner != NULL)
        return inner->write_paused;
    const Stream *stream = stream_of(cycle);
    return stream->connection->write_paused || stream->queued > STREAM_HIGH_BYTES || stream->file >= 0;
}

static PyObject *
wire2_wait_writable(Cycle *cycle)
{
    Factory *factory = cycle->factory;
    Connection *inner = websocket_connection(cycle);
    PyObject **futures = inner != NULL ? &inner->write_futures : &stream_of(cycle)->write_futures;
    return futures_add(factory->state, factory->loop, futures);
}

static void
wire2_cork(PyObject *stream)
{
    output_cork((Connection *)stream);
}

/* The step of an app is over. Where others have streams open, theirs may come in the same turn of the loop: what they write
 * leaves in one write, behind it. */
static void
wire2_uncork(PyObject *stream)
{
    Connection *connection = (Connection *)stream;
    const Http2 *http2 = connection->http2;
    if (connection->corked == 1 && http2 != NULL && http2->open_count > 1 && connection->transport != NULL) {
        connection->corked = 0;
        connection_schedule_resume(connection);
        if (LIKELY(connection->resume_scheduled))
            return;
        connection->corked = 1; /* no memory for that */
    }
    output_uncork(connection);
}

const Wire http2_wire = {
    .head = wire2_head,
    .body = wire2_body,
    .file = wire2_file,
    .trailers = wire2_trailers,
    .hint = wire2_hint,
    .accept = tunnel_accept,
    .fail = wire2_fail,
    .cut = wire2_cut,
    .want_body = wire2_want_body,
    .took_body = wire2_took_body,
    .congested = wire2_congested,
    .wait_writable = wire2_wait_writable,
    .cork = wire2_cork,
    .uncork = wire2_uncork,
};

/* ---- asked by nghttp2 ---- */

/* The file cannot be read as it was announced: the client must see that. */
static ssize_t
file_failed(Stream *stream)
{
    PyErr_Clear();
    stream->trouble = "the file that it was sent became shorter, or could not be read";
    stream_note(stream);
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* RST_STREAM(INTERNAL_ERROR) */
}

/* Queues the next piece of the file. 0, or what is wrong. */
static ssize_t
read_file(Stream *stream)
{
    int64_t length = stream->file_left < STREAM_FILE_BYTES ? stream->file_left : STREAM_FILE_BYTES;
    PyObject *bytes = file_read_part(stream->file, stream->file_offset, length);
    bool whole = bytes != NULL && PyBytes_GET_SIZE(bytes) == length && stream_queue(stream, bytes) == 0;
    Py_XDECREF(bytes);
    if (!whole)
        return file_failed(stream);
    stream->file_offset += length;
    stream->file_left -= length;
    if (stream->file_left == 0) {
        close(stream->file);
        stream->file = -1;
        stream->file_read = true;
        stream->ended = !stream->file_more;
        stream_note(stream);
    }
    return 0;
}

ssize_t
http2_on_read(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t length, uint32_t *flags,
              nghttp2_data_source *source, void *user)
{
    Stream *stream = source->ptr;
    (void)buffer;
    (void)user;
    if (stream->queued == 0 && stream->file >= 0) {
        ssize_t wrong = read_file(stream);
        if (wrong != 0)
            return wrong;
    }
    bool whole = stream->queued <= (int64_t)length;
    size_t part = whole ? (size_t)stream->queued : length;
    bool last = whole && stream->ended && stream->file < 0;
    if (part == 0 && !last) {
        stream->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (last) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        const HeadBlock *trailers = stream->trailers;
        if (trailers != NULL && trailers->count > 0 && !stream->has_trailers) {
            stream->has_trailers = true;
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (nghttp2_submit_trailer(session, id, trailers->nv, trailers->count) != 0)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
    }
    return (ssize_t)part;
}

#define FRAME_HEADER_BYTES 9

int
http2_on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header, size_t length,
                   nghttp2_data_source *source, void *user)
{
    Connection *connection = user;
    Stream *stream = source->ptr;
    (void)session;
    CHECK(frame->data.padlen == 0);
    if (connection->out.total >= WRITER_FLUSH_BYTES)
        return NGHTTP2_ERR_WOULDBLOCK;
    if ((int64_t)length > stream->queued)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* it was dropped since http2_on_read() */
    if (writer_copy(&connection->out, (const char *)header, FRAME_HEADER_BYTES) < 0 || stream_move(stream, length) < 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    stream->progress_ms = factory_now_ms();
    guard_sent(connection);
    if (stream->queued <= STREAM_LOW_BYTES && (stream->write_futures != NULL || stream->tunnel != NULL))
        stream_note(stream);
    return 0;
}

int
http2_on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    Connection *connection = user;
    Stream *stream =
        frame->hd.stream_id == 0 ? NULL : nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (frame->hd.type == NGHTTP2_RST_STREAM) {
        guard_stream_fault(connection, stream, frame->rst_stream.error_code);
        return 0;
    }
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        guard_session_fault(connection, &frame->goaway);
        http2_ask_behind_goaway(connection);
    }
    if (stream == NULL || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
        return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && stream->block != NULL && frame->headers.nvlen > 0 &&
        frame->headers.nva[0].value == stream->block->nv[0].value) {
        head2_free(connection->factory->http2, stream->block);
        stream->block = NULL;
    }
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
        stream->end_sent = true;
        stream->end_ms = factory_now_ms(); /* http2_look() may stop what is still to come */
    }
    return 0;
}

int
http2_on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user)
{
    (void)error;
    (void)user;
    Stream *stream = frame->hd.type != NGHTTP2_HEADERS
                         ? NULL
                         : nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream != NULL)
        stream_reset(stream, NGHTTP2_INTERNAL_ERROR);
    return 0;
}

/* ---- noted meanwhile ---- */

/* All of a file is on its way. May run Python. */
static void
file_done(Stream *stream)
{
    Cycle *cycle = stream->cycle;
    stream->file_read = false;
    if (cycle == NULL)
        return;
    cycle->sending_file = false;
    if (stream->file_more)
        return;
    cycle->response = RESPONSE_DONE;
    wire2_response_done(stream, cycle);
}

void
wire2_settle(Stream *stream)
{
    Connection *connection = stream->connection;
    Http2 *http2 = connection->http2;
    const char *trouble = stream->trouble;
    http2->settling = stream; /* NULL again if anything frees it */
    stream->trouble = NULL;
    if (stream->file_read)
        file_done(stream);
    if (http2->settling != NULL && stream->reject_status != 0 && !stream->refused && list_empty(&stream->queue))
        request2_refuse(connection, stream, stream->reject_status, stream->reject_reason);
    if (http2->settling != NULL && stream->tunnel != NULL)
        tunnel_deliver(stream);
    if (http2->settling != NULL && stream->queued <= STREAM_LOW_BYTES && !connection->write_paused)
        stream_wake(stream);
    http2->settling = NULL;
    if (trouble != NULL)
        connection_report(connection, REPORT_RESET, trouble);
}

#endif
