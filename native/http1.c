/* The wire of HTTP/1.1: how a cycle's response becomes bytes. See connection.h.
 *
 * In the order bytes move: head, body, end, flush. RFC 9112 is the reference throughout.
 */
#include "connection.h"

#include "account.h"
#include "await.h"
#include "chars.h"
#include "file.h"
#include "head.h"
#include "output.h"

#include <sys/socket.h>
#include <time.h>

static inline Connection *
stream_of(const Cycle *cycle)
{
    CHECK(cycle->stream != NULL);
    return (Connection *)cycle->stream;
}

/* ---- heads ---- */

/* Longest framing: "content-length: " 20 digits CRLF, two connection fields, CRLF. */
#define FRAMING_BYTES 128

static char *
put_text(char *to, const char *text, size_t length)
{
    memcpy(to, text, length);
    return to + length;
}

static char *
put_bytes(char *to, PyObject *bytes)
{
    return put_text(to, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
}

/* RFC 9110 §10.2.3, in seconds: the shortest there is. What is too much now is usually over by then. */
#define RETRY_AFTER "retry-after: 1\r\n"

#define PUT(to, literal) put_text((to), (literal), sizeof(literal) - 1)

/* The fields of every response that the app did not give itself, then framing, then the empty line. */
static int
put_head_end(Connection *connection, const HeadFacts *facts, int64_t content_length, bool keep, bool version_10)
{
    Factory *factory = connection->factory;
    const Cycle *cycle = connection->current;
    PyObject *id = cycle == NULL || cycle->has_own_id ? NULL : cycle->request_id;
    size_t fixed = (size_t)PyBytes_GET_SIZE(factory->fixed_fields);
    if (UNLIKELY(id != NULL))
        fixed += (size_t)(PyBytes_GET_SIZE(factory->trace.request_id_field) + PyBytes_GET_SIZE(id)) + 4;
    char *to = writer_reserve(&connection->out, fixed + FRAMING_BYTES + DATE_LINE_LENGTH + 32);
    if (to == NULL)
        return -1;
    if (factory->date_header && !facts->has_date) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
        to = put_text(to, date_line(&factory->date, now.tv_sec), DATE_LINE_LENGTH);
    }
    if (factory->server_header && !facts->has_server)
        to = PUT(to, "server: shardserve\r\n");
    to = put_bytes(to, factory->fixed_fields);
    if (UNLIKELY(id != NULL)) {
        to = PUT(put_bytes(to, factory->trace.request_id_field), ": ");
        to = PUT(put_bytes(to, id), "\r\n");
    }
    if (connection->framing == FRAMING_CHUNKED) {
        to = PUT(to, "transfer-encoding: chunked\r\n");
    }
    else if (content_length >= 0) {
        to = PUT(to, "content-length: ");
        to = chars_put_decimal(to, (uint64_t)content_length);
        to = PUT(to, "\r\n");
    }
    if (facts->connection_upgrade)
        to = PUT(to, "connection: upgrade\r\n");
    if (!keep)
        to = PUT(to, "connection: close\r\n");
    else if (version_10)
        to = PUT(to, "connection: keep-alive\r\n"); /* RFC 9112 §C.2.2 */
    to = PUT(to, "\r\n");
    writer_commit(&connection->out, to);
    return 0;
}

void
http1_simple_response(Connection *connection, int status, const char *reason, bool head_only, bool version_10, bool keep)
{
    HeadFacts facts = {.content_length = -1};
    size_t length = strlen(reason);
    connection->framing = FRAMING_LENGTH;
    if (head_status_line(&connection->out, status) < 0 ||
        (status == 503 && writer_copy(&connection->out, RETRY_AFTER, sizeof(RETRY_AFTER) - 1) < 0) ||
        writer_copy(&connection->out, "content-type: text/plain; charset=utf-8\r\n", 41) < 0 ||
        put_head_end(connection, &facts, (int64_t)length, keep, version_10) < 0 ||
        (!head_only && writer_copy(&connection->out, reason, length) < 0)) {
        PyErr_WriteUnraisable((PyObject *)connection);
        keep = false; /* a part of it may be on its way */
    }
    connection->keep = keep;
}

static int
http1_accept(Cycle *cycle, PyObject *fields)
{
    Connection *connection = stream_of(cycle);
    HeadFacts facts;
    WriterMark mark = writer_mark(&connection->out);
    if (head_encode(connection->factory->state, &connection->out, 101, fields, &facts) < 0)
        return -1;
    connection->framing = FRAMING_NONE;
    if (account_head(cycle, fields) == 0 && put_head_end(connection, &facts, -1, true, false) == 0)
        return 0;
    writer_rollback(&connection->out, mark);
    return -1;
}

/* Whether the connection may be used again after the response of `cycle`, whose head is about to say so. In a drain
 * that is also when the connection stops taking requests. */
static bool
decide_keep(Connection *connection, const Cycle *cycle)
{
    bool last_read = connection->unparsed == NULL && !connection->more_to_feed;
    if (!cycle->keep_alive || cycle->facts.connection_close ||
        connection->request_count >= connection->factory->limits.keep_alive_requests)
        return false;
    if (connection->factory->draining) {
        /* What has been read is still answered; what comes now is for the client to repeat (RFC 9112 §9.3.2). */
        connection->last_batch = true;
        if (last_read)
            return false;
    }
    /* RFC 9110 §10.1.1: a client told neither to continue nor to stop may still send the body, or not. */
    if (cycle->expects_continue && !cycle->body_complete)
        return false;
    return !(connection->input_ended && last_read);
}

static int
http1_head(Cycle *cycle, int status, PyObject *fields)
{
    Connection *connection = stream_of(cycle);
    CHECK(connection->current == cycle && !connection->head_open);
    WriterMark mark = writer_mark(&connection->out);
    if (head_encode(connection->factory->state, &connection->out, status, fields, &cycle->facts) < 0)
        return -1;
    if (account_head(cycle, fields) < 0) {
        writer_rollback(&connection->out, mark);
        return -1;
    }
    connection->head_mark = mark;
    connection->head_open = true;
    return 0;
}

int
http1_begin_body(Connection *connection, Cycle *cycle, int64_t length, bool more)
{
    int64_t content_length = -1;
    if (!connection->head_open)
        return 0;
    if (more)
        cycle->first_byte_ns = account_now_ns();
    bool keep = decide_keep(connection, cycle);
    if (cycle->no_body) {
        connection->framing = FRAMING_NONE;
        if (cycle->status == 205)
            content_length = 0; /* RFC 9110 §15.3.6: it has no content, and must say so */
    }
    else if (cycle->facts.content_length >= 0) {
        connection->framing = FRAMING_LENGTH;
    }
    else if (!more) {
        connection->framing = FRAMING_LENGTH;
        content_length = length;
    }
    else if (!cycle->version_10) {
        connection->framing = FRAMING_CHUNKED;
    }
    else {
        connection->framing = FRAMING_CLOSE; /* RFC 9112 §6.1: no chunked coding to a 1.0 client */
        keep = false;
    }
    connection->head_open = false;
    connection->keep = keep;
    return put_head_end(connection, &cycle->facts, content_length, keep, cycle->version_10);
}

/* ---- bodies ---- */

int
http1_begin_chunk(Connection *connection, int64_t length)
{
    char *to = writer_reserve(&connection->out, 24);
    if (to == NULL)
        return -1;
    to = PUT(chars_put_hex(to, (uint64_t)length), "\r\n");
    writer_commit(&connection->out, to);
    return 0;
}

static int
put_chunk(Connection *connection, PyObject *bytes, bool more)
{
    Py_ssize_t length = PyBytes_GET_SIZE(bytes);
    if (length > 0 && (http1_begin_chunk(connection, length) < 0 || writer_body(&connection->out, bytes) < 0 ||
                       writer_copy(&connection->out, "\r\n", 2) < 0))
        return -1;
    return more ? 0 : writer_copy(&connection->out, "0\r\n\r\n", 5);
}

static int
http1_body(Cycle *cycle, PyObject *bytes, bool more)
{
    Connection *connection = stream_of(cycle);
    Py_INCREF(connection);
    int result = http1_begin_body(connection, cycle, PyBytes_GET_SIZE(bytes), more);
    if (result == 0 && connection->framing == FRAMING_CHUNKED)
        result = put_chunk(connection, bytes, more);
    else if (result == 0 && connection->framing != FRAMING_NONE && PyBytes_GET_SIZE(bytes) > 0)
        result = writer_body(&connection->out, bytes);
    if (result < 0) {
        Py_DECREF(connection);
        return -1;
    }
    if (!more)
        connection_response_done(connection, cycle);
    if (!connection->corked || connection->out.total > WRITER_FLUSH_BYTES)
        output_flush(connection);
    connection_check(connection);
    Py_DECREF(connection);
    return result;
}

/* ---- behind and before a response ---- */

static int
http1_trailers(Cycle *cycle, PyObject *fields, bool more)
{
    Connection *connection = stream_of(cycle);
    WriterMark mark = writer_mark(&connection->out);
    CHECK(connection->framing == FRAMING_CHUNKED && !connection->head_open);
    /* RFC 9112 §7.1: chunked-body = *chunk last-chunk trailer-section CRLF */
    if (!cycle->trailers_begun && writer_copy(&connection->out, "0\r\n", 3) < 0)
        return -1;
    if (head_encode_trailers(connection->factory->state, &connection->out, mark, fields) < 0)
        return -1; /* it may have run Python: the mark is old */
    if (!more && writer_copy(&connection->out, "\r\n", 2) < 0) {
        writer_rollback(&connection->out, mark);
        return -1;
    }
    cycle->trailers_begun = true;
    Py_INCREF(connection);
    if (!more) {
        cycle->response = RESPONSE_DONE;
        connection_response_done(connection, cycle);
    }
    if (!connection->corked)
        output_flush(connection);
    connection_check(connection);
    Py_DECREF(connection);
    return 0;
}

static int
http1_hint(Cycle *cycle, PyObject *links)
{
    Connection *connection = stream_of(cycle);
    WriterMark mark = writer_mark(&connection->out);
    if (head_status_line(&connection->out, 103) < 0 ||
        head_encode_links(connection->factory->state, &connection->out, mark, links) < 0)
        return -1;
    if (writer_copy(&connection->out, "\r\n", 2) < 0) {
        writer_rollback(&connection->out, mark);
        return -1;
    }
    Py_INCREF(connection);
    output_flush(connection); /* corked or not: a hint is for the time until the response */
    connection_check(connection);
    Py_DECREF(connection);
    return 0;
}

/* ---- when the app fails ---- */

static void
http1_fail(Cycle *cycle)
{
    Connection *connection = stream_of(cycle);
    Py_INCREF(connection);
    if (connection->head_open)
        writer_rollback(&connection->out, connection->head_mark);
    connection->head_open = false;
    account_answered(cycle, 500);
    http1_simple_response(connection, 500, head_reason(500), cycle->head_only, cycle->version_10,
                          decide_keep(connection, cycle));
    connection_response_done(connection, cycle);
    if (!connection->corked)
        output_flush(connection);
    connection_check(connection);
    Py_DECREF(connection);
}

void
http1_refuse(Connection *connection, Cycle *cycle, int status)
{
    CHECK(connection->current == cycle && !cycle->started && !connection->head_open);
    cycle->response = RESPONSE_DONE;
    account_answered(cycle, status);
    http1_simple_response(connection, status, head_reason(status), cycle->head_only, cycle->version_10,
                          decide_keep(connection, cycle));
    connection_response_done(connection, cycle);
    if (!connection->corked || connection->out.total > WRITER_FLUSH_BYTES)
        output_flush(connection);
    connection_check(connection);
}

void
http1_reset(Connection *connection)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    if (connection->queue_fd >= 0)
        setsockopt(connection->queue_fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    connection_abort(connection);
}

static void
http1_cut(Cycle *cycle)
{
    Connection *connection = stream_of(cycle);
    Py_INCREF(connection);
    bool reset = connection->framing == FRAMING_CLOSE;
    file_drop(connection);
    if (connection->head_open)
        writer_rollback(&connection->out, connection->head_mark);
    connection->keep = false;
    connection_response_done(connection, cycle);
    if (reset) {
        http1_reset(connection);
    }
    else if (!connection->corked) {
        output_flush(connection);
    }
    connection_check(connection);
    Py_DECREF(connection);
}

/* ---- back-pressure ---- */

static int
http1_want_body(Cycle *cycle)
{
    Connection *connection = stream_of(cycle);
    Py_INCREF(connection);
    int result = 0;
    if (cycle->expects_continue && cycle->response == RESPONSE_NONE) {
        cycle->expects_continue = false; /* RFC 9110 §10.1.1: only now does the app want it */
        result = writer_copy(&connection->out, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        if (result < 0) {
            Py_DECREF(connection);
            return -1;
        }
        if (!connection->corked)
            output_flush(connection);
    }
    connection_adjust_reading(connection);
    if (connection->unparsed != NULL)
        connection_schedule_resume(connection);
    Py_DECREF(connection);
    return result;
}

static bool
http1_congested(const Cycle *cycle)
{
    return stream_of(cycle)->write_paused || stream_of(cycle)->file != NULL;
}

static PyObject *
http1_wait_writable(Cycle *cycle)
{
    Connection *connection = stream_of(cycle);
    Factory *factory = connection->factory;
    return futures_add(factory->state, factory->loop, &connection->write_futures);
}

static void
wire_cork(PyObject *stream)
{
    output_cork((Connection *)stream);
}

static void
wire_uncork(PyObject *stream)
{
    output_uncork((Connection *)stream);
}

const Wire http1_wire = {
    .head = http1_head,
    .body = http1_body,
    .file = file_send,
    .trailers = http1_trailers,
    .hint = http1_hint,
    .accept = http1_accept,
    .fail = http1_fail,
    .cut = http1_cut,
    .want_body = http1_want_body,
    .congested = http1_congested,
    .wait_writable = http1_wait_writable,
    .cork = wire_cork,
    .uncork = wire_uncork,
};
