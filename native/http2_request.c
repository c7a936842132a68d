/* Requests over HTTP/2: from their fields to the app (RFC 9113 §8.3.1). See http2.h.
 *
 * nghttp2 has seen to what makes a request malformed: order, number and characters of pseudo-header fields, fields that
 * belong to connections, lengths. What it leaves to a server is here, with the same answers as over HTTP/1.1.
 */
#include "http2_stream.h"

#ifdef SHARDSERVE_NGHTTP2

#include "account.h"
#include "chars.h"
#include "fields.h"
#include "head.h"
#include "line.h"
#include "trace.h"

/* What a field costs beyond its texts (RFC 9113 §6.5.2). */
#define FIELD_OVERHEAD_BYTES 32

/* ---- fields ---- */

static void
refuse(Stream *stream, int status, const char *reason)
{
    if (stream->reject_status != 0)
        return;
    stream->reject_status = status;
    stream->reject_reason = reason;
}

static PyObject *
bytes_of(const nghttp2_vec *text)
{
    return PyBytes_FromStringAndSize((const char *)text->base, (Py_ssize_t)text->len);
}

static bool
is(const nghttp2_vec *text, const char *name, size_t length)
{
    return text->len == length && memcmp(text->base, name, length) == 0;
}

#define IS(text, literal) is((text), (literal), sizeof(literal) - 1)

static int
take_method(Stream *stream, Cycle *cycle, const nghttp2_vec *value)
{
    const State *state = stream->connection->factory->state;
    LineMethod method = line_method((const char *)value->base, value->len);
    cycle->method_kind = (uint8_t)method;
    stream->head_only = cycle->head_only = method == LINE_HEAD;
    if (LIKELY(method != LINE_OTHER)) {
        Py_XSETREF(cycle->method, Py_NewRef(state->methods[method]));
        return 0;
    }
    if (!chars_is_token((const char *)value->base, value->len))
        refuse(stream, 400, "the method is no token");
    else if (value->len > LINE_METHOD_BYTES)
        refuse(stream, 501, head_reason(501));
    PyObject *name = PyUnicode_DecodeLatin1((const char *)value->base, (Py_ssize_t)value->len, NULL);
    Py_XSETREF(cycle->method, name);
    return name == NULL ? -1 : 0;
}

static int
take_path(Stream *stream, Cycle *cycle, const nghttp2_vec *value)
{
    if ((int64_t)value->len > stream->connection->factory->limits.request_line)
        refuse(stream, 414, "the path is longer than limit-request-line");
    PyObject *target = bytes_of(value);
    Py_XSETREF(cycle->target, target);
    return target == NULL ? -1 : 0;
}

static int
take_authority(Stream *stream, const nghttp2_vec *value)
{
    if (value->len == 0 || !chars_is_host((const char *)value->base, value->len))
        refuse(stream, 400, "there must be one valid :authority or Host");
    PyObject *authority = bytes_of(value);
    Py_XSETREF(stream->authority, authority);
    return authority == NULL ? -1 : 0;
}

/* A field whose name begins with a colon. The scheme is the transport's, whatever the client calls it. */
static int
take_pseudo(Stream *stream, Cycle *cycle, const nghttp2_vec *name, const nghttp2_vec *value)
{
    if (IS(name, ":method"))
        return take_method(stream, cycle, value);
    if (IS(name, ":path"))
        return take_path(stream, cycle, value);
    if (IS(name, ":authority"))
        return take_authority(stream, value);
    if (IS(name, ":protocol")) {
        stream->websocket = IS(value, "websocket");
        stream->unknown_protocol = !stream->websocket;
    }
    return 0;
}

/* The shared object of a common name, or NULL. Borrowed. */
static PyObject *
known_name(const Http2Shared *shared, const nghttp2_vec *name)
{
    uint32_t slot = http2_name_hash((const char *)name->base, name->len);
    for (;; slot++) {
        PyObject *known = shared->names[slot % NAME_SLOTS];
        if (known == NULL)
            return NULL;
        if ((size_t)PyBytes_GET_SIZE(known) == name->len && memcmp(PyBytes_AS_STRING(known), name->base, name->len) == 0)
            return known;
    }
}

/* The cookie so far: the field's pair, or NULL: there is none, or somebody has found the list and changed it. Borrowed. */
static PyObject *
cookie_pair(const Stream *stream, const Cycle *cycle)
{
    Py_ssize_t at = stream->cookie_at;
    PyObject *pair = at < 0 || at >= PyList_GET_SIZE(cycle->headers) ? NULL : PyList_GET_ITEM(cycle->headers, at);
    if (pair == NULL || !PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2 ||
        !PyBytes_CheckExact(PyTuple_GET_ITEM(pair, 1)))
        return NULL;
    return pair;
}

/* Cookie may come in several fields, which are one for anybody else (RFC 9113 §8.2.3). 0, or -1 with MemoryError. */
static int
join_cookie(const State *state, Stream *stream, Cycle *cycle, PyObject *pair, const nghttp2_vec *value)
{
    PyObject *before = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    Py_ssize_t length = PyBytes_GET_SIZE(before);
    PyObject *joined = PyBytes_FromStringAndSize(NULL, length + 2 + (Py_ssize_t)value->len);
    PyObject *both = NULL;
    if (joined != NULL) {
        char *to = PyBytes_AS_STRING(joined);
        memcpy(to, PyBytes_AS_STRING(before), (size_t)length);
        memcpy(to + length, "; ", 2);
        memcpy(to + length + 2, value->base, value->len);
        both = PyTuple_Pack(2, state->field_cookie, joined);
    }
    Py_DECREF(before);
    Py_XDECREF(joined);
    if (both == NULL)
        return -1;
    if (cookie_pair(stream, cycle) != NULL) /* still: making these may have run any code */
        return PyList_SetItem(cycle->headers, stream->cookie_at, both);
    Py_DECREF(both);
    return 0;
}

/* What fields_add() refused: the reason is the stream's now. 0, or -1 with MemoryError. */
static int
note_refusal(Connection *connection, Stream *stream)
{
    int status = connection->reject_status;
    if (status == 0)
        return -1;
    PyErr_Clear();
    connection->reject_status = 0;
    refuse(stream, status, connection->reject_reason);
    return 0;
}

static int
take_regular(Stream *stream, Cycle *cycle, const nghttp2_vec *name, const nghttp2_vec *value)
{
    Connection *connection = stream->connection;
    const State *state = connection->factory->state;
    if (UNLIKELY(fields_admit(connection, (Py_ssize_t)name->len, (Py_ssize_t)value->len) < 0))
        return note_refusal(connection, stream);
    PyObject *known = known_name(connection->factory->http2, name);
    if (known != NULL && known == state->field_cookie) {
        PyObject *pair = cookie_pair(stream, cycle);
        if (pair != NULL)
            return join_cookie(state, stream, cycle, pair, value);
        stream->cookie_at = PyList_GET_SIZE(cycle->headers);
    }
    if (known == state->field_host && stream->authority != NULL) {
        /* RFC 9113 §8.3.1: it must not name another one, and :authority is in its place. */
        if ((size_t)PyBytes_GET_SIZE(stream->authority) != value->len ||
            memcmp(PyBytes_AS_STRING(stream->authority), value->base, value->len) != 0)
            refuse(stream, 400, "Host and :authority differ");
        return 0;
    }
    PyObject *key = known != NULL ? Py_NewRef(known) : bytes_of(name);
    PyObject *text = key == NULL ? NULL : bytes_of(value);
    return fields_add(connection, cycle, key, known != NULL, text) < 0 ? note_refusal(connection, stream) : 0;
}

/* :authority has come whole when the first other field comes: as Host it is the first of them. 0, or -1. */
static int
put_host(Stream *stream, Cycle *cycle)
{
    Connection *connection = stream->connection;
    PyObject *host = connection->factory->state->field_host;
    connection->host_count = 1;
    PyObject *pair = PyTuple_Pack(2, host, stream->authority);
    int result = pair == NULL ? -1 : PyList_Insert(cycle->headers, 0, pair);
    Py_XDECREF(pair);
    if (stream->cookie_at >= 0)
        stream->cookie_at++;
    return result;
}

int
request2_take(Stream *stream, Cycle *cycle, const nghttp2_vec *name, const nghttp2_vec *value)
{
    const Connection *connection = stream->connection;
    stream->header_bytes += (int64_t)(name->len + value->len + FIELD_OVERHEAD_BYTES);
    if (UNLIKELY(stream->header_bytes > connection->factory->limits.http2_max_header_list_size)) {
        refuse(stream, 431, "the fields are larger than http2-max-header-list-size");
        return 0;
    }
    if (name->len > 0 && name->base[0] == ':')
        return take_pseudo(stream, cycle, name, value);
    if (PyList_GET_SIZE(cycle->headers) == 0 && stream->authority != NULL && connection->host_count == 0 &&
        put_host(stream, cycle) < 0)
        return -1;
    return take_regular(stream, cycle, name, value);
}

/* What is to be said of a whole head. */
static void
check_head(Stream *stream, const Cycle *cycle)
{
    Connection *connection = stream->connection;
    bool connect = cycle->method != NULL && PyUnicode_CompareWithASCIIString(cycle->method, "CONNECT") == 0;
    if (cycle->method == NULL || (cycle->target == NULL && !connect))
        refuse(stream, 400, head_reason(400)); /* refused for a field before them */
    else if (connect && (!stream->websocket || connection->factory->websocket == NULL))
        refuse(stream, 501, stream->unknown_protocol ? "an unknown :protocol" : head_reason(501)); /* we are no proxy */
    else if (cycle->target == NULL || !line_is_target(PyBytes_AS_STRING(cycle->target), (size_t)PyBytes_GET_SIZE(cycle->target),
                                                      (LineMethod)cycle->method_kind))
        refuse(stream, 400, "not a request target");
    else if (PyBytes_AS_STRING(cycle->target)[0] != '/' && PyBytes_AS_STRING(cycle->target)[0] != '*')
        refuse(stream, 400, "not a request target"); /* a whole URI, which nghttp2 lets pass with other schemes */
    else if (connection->host_count == 0)
        refuse(stream, 400, "there must be one valid :authority or Host");
    else if (fields_check_body(connection) < 0)
        (void)note_refusal(connection, stream);
}

int
request2_complete(Stream *stream, Cycle *cycle)
{
    Connection *connection = stream->connection;
    if (stream->authority != NULL && connection->host_count == 0 && put_host(stream, cycle) < 0)
        return -1;
    Py_CLEAR(stream->authority);
    if (UNLIKELY(connection->underscored) && fields_drop_shadows(connection->factory->state, cycle) < 0)
        return -1;
    check_head(stream, cycle);
    stream->forwarded = connection->forwarded;
    cycle->keep_alive = true;
    cycle->takes_trailers = true; /* HTTP/2 has a place for them, whatever TE says (RFC 9113 §8.1) */
    cycle->client = Py_NewRef(connection->client);
    if (stream->input_done)
        cycle->expects_continue = false;
    stream->window_ms = factory_now_ms();
    if (connection->request_count++ > 0)
        figures_add(&connection->factory->figures, FIGURE_reused);
    connection->served_any = true;
    return 0;
}

/* ---- refused ---- */

void
request2_answer(Stream *stream, int status, const char *reason, PyObject *id)
{
    Factory *factory = stream->connection->factory;
    size_t length = strlen(reason);
    HeadBlock *block = head2_simple(factory, status, length, id);
    PyObject *text = block == NULL || stream->head_only ? NULL : PyBytes_FromStringAndSize(reason, (Py_ssize_t)length);
    if (text == NULL ? PyErr_Occurred() != NULL : stream_queue(stream, text) < 0) {
        PyErr_WriteUnraisable((PyObject *)stream->connection);
        head2_free(factory->http2, block);
        stream_reset(stream, NGHTTP2_INTERNAL_ERROR);
    }
    else {
        head2_free(factory->http2, stream->block);
        stream->block = block;
        stream->ended = true;
        wire2_give_head(stream, text != NULL);
    }
    Py_XDECREF(text);
}

/* The app must not take what has come for a whole request. May run Python. */
static void
disconnect(Connection *connection, Stream *stream)
{
    bool rejected = connection->rejected;
    connection->rejected = true; /* it is not the client that leaves */
    stream_let_go(stream);
    connection->rejected = rejected;
}

void
request2_refuse(Connection *connection, Stream *stream, int status, const char *reason)
{
    bool fresh = !stream->head_given && !stream->closed;
    stream->refused = true;
    stream_consume(stream, stream->unconsumed);
    stream_drop_output(stream);
    if (!fresh)
        stream_reset(stream, NGHTTP2_CANCEL);
    else
        request2_answer(stream, status, reason, NULL);
    disconnect(connection, stream); /* may run Python: the stream may be gone after it */
    connection_report(connection, fresh ? status : REPORT_RESET, reason);
    wire2_flush(connection);
}

/* limit_concurrency is reached. May run Python. */
static void
refuse_overload(Connection *connection, Cycle *cycle)
{
    connection->factory->refused++;
    if (trace_begin(cycle) < 0)
        PyErr_WriteUnraisable((PyObject *)connection); /* out of memory */
    if (cycle->lane == NULL)
        return; /* the collector ran, and the client went */
    Stream *stream = cycle->lane;
    cycle->response = RESPONSE_DONE;
    account_answered(cycle, 503);
    request2_answer(stream, 503, head_reason(503), cycle->request_id);
    wire2_response_done(stream, cycle);
    connection_report(connection, 503, "too many requests in flight (limit-concurrency)");
}

/* ---- run ---- */

/* The scope of a request; NULL: it is answered or gone. May run Python. */
static PyObject *
request_scope(Connection *connection, Cycle *cycle, bool forwarded)
{
    PyObject *scope = intake_scope(connection, cycle, forwarded);
    if (cycle->lane == NULL)
        Py_CLEAR(scope); /* the client went meanwhile */
    else if (scope == NULL)
        request2_refuse(connection, cycle->lane, 500, head_reason(500));
    return scope;
}

/* One request whose head is complete. The caller holds its cycle. May run Python. */
static void
run(Connection *connection, Stream *stream, Cycle *cycle)
{
    const Factory *factory = connection->factory;
    if (UNLIKELY(stream->reject_status != 0)) {
        request2_refuse(connection, stream, stream->reject_status, stream->reject_reason);
    }
    else if (UNLIKELY(factory->in_flight_count >= factory->limits.concurrency)) {
        refuse_overload(connection, cycle);
    }
    else if (UNLIKELY(stream->websocket)) {
        tunnel_open(connection, stream);
    }
    else {
        PyObject *scope = request_scope(connection, cycle, stream->forwarded);
        if (scope != NULL)
            intake_start(cycle, scope);
    }
}

void
request2_run(Connection *connection)
{
    Http2 *http2 = connection->http2;
    if (connection->running)
        return;
    connection->running = true;
    while (!list_empty(&http2->ready)) {
        Stream *stream = LIST_OWNER(http2->ready.next, Stream, queue);
        list_remove(&stream->queue);
        Cycle *cycle = (Cycle *)Py_XNewRef(stream->cycle);
        if (cycle == NULL)
            continue;
        run(connection, stream, cycle);
        cycle_release(cycle);
        if (UNLIKELY(connection->out.total > WRITER_FLUSH_BYTES))
            wire2_flush(connection);
    }
    connection->running = false;
    if (UNLIKELY(connection->unparsed != NULL))
        connection_schedule_resume(connection); /* an app let the loop go round */
    if (UNLIKELY(connection->request_count >= connection->factory->limits.keep_alive_requests))
        http2_drain(connection); /* RFC 9113 §9.1 */
}

#endif
