/* httptools' callbacks. See request.h. In the order the parser calls them. */
#include "request.h"

#include "chars.h"
#include "connection.h"
#include "head.h"
#include "line.h"

/* Field names that come lower-cased and shared; each is known in lower case and as browsers write it. */
static const char *const COMMON_FIELDS[] = {
    "accept",          "accept-charset",     "accept-encoding",
    "accept-language", "access-control-request-headers", "access-control-request-method",
    "authorization",   "cache-control",      "connection",
    "content-encoding", "content-length",    "content-type",
    "cookie",          "date",               "dnt",
    "expect",          "forwarded",          "from",
    "host",            "if-match",           "if-modified-since",
    "if-none-match",   "if-range",           "if-unmodified-since",
    "keep-alive",      "last-event-id",      "max-forwards",
    "origin",          "pragma",             "priority",
    "proxy-authorization", "range",          "referer",
    "sec-ch-ua",       "sec-ch-ua-mobile",   "sec-ch-ua-platform",
    "sec-fetch-dest",  "sec-fetch-mode",     "sec-fetch-site",
    "sec-fetch-user",  "sec-gpc",            "sec-websocket-extensions",
    "sec-websocket-key", "sec-websocket-protocol", "sec-websocket-version",
    "te",              "traceparent",        "tracestate",
    "trailer",         "transfer-encoding",  "upgrade",
    "upgrade-insecure-requests", "user-agent", "via",
    "x-csrf-token",    "x-forwarded-for",    "x-forwarded-host",
    "x-forwarded-port", "x-forwarded-proto", "x-real-ip",
    "x-request-id",    "x-requested-with",
};

/* A head longer than this is refused: 414 if it is the target, else 431. (nginx: 8 KiB a line, 32 KiB in all.) */
#define HEAD_LIMIT_BYTES 65536

static const char *const METHODS[] = {"GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"};

static const char *const OTHER_PROTOCOLS[] = {
    "SOURCE", "DESCRIBE", "ANNOUNCE", "SETUP",         "PLAY",          "PAUSE",
    "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER", "REDIRECT", "RECORD", "FLUSH",
};

/* "x-request-id" -> "X-Request-Id". New bytes; NULL with MemoryError. */
static PyObject *
title_case(PyObject *lower)
{
    PyObject *title = PyBytes_FromStringAndSize(PyBytes_AS_STRING(lower), PyBytes_GET_SIZE(lower));
    if (title == NULL)
        return NULL;
    char *text = PyBytes_AS_STRING(title);
    for (Py_ssize_t i = 0; i < PyBytes_GET_SIZE(title); i++)
        if ((i == 0 || text[i - 1] == '-') && text[i] >= 'a' && text[i] <= 'z')
            text[i] = (char)(text[i] - 'a' + 'A');
    return title;
}

static PyObject *
known_field(const State *state, const char *lower)
{
    PyObject *key = PyBytes_FromString(lower);
    PyObject *value = key == NULL ? NULL : PyDict_GetItemWithError(state->field_names, key);
    Py_XDECREF(key);
    return Py_XNewRef(value);
}

int
request_init_names(State *state)
{
    state->field_names = PyDict_New();
    state->methods = PyDict_New();
    if (state->field_names == NULL || state->methods == NULL)
        return -1;
    for (size_t i = 0; i < sizeof(COMMON_FIELDS) / sizeof(COMMON_FIELDS[0]); i++) {
        PyObject *lower = PyBytes_FromString(COMMON_FIELDS[i]);
        PyObject *title = lower == NULL ? NULL : title_case(lower);
        int set = title == NULL || PyDict_SetItem(state->field_names, lower, lower) < 0 ||
                  PyDict_SetItem(state->field_names, title, lower) < 0;
        Py_XDECREF(lower);
        Py_XDECREF(title);
        if (set)
            return -1;
    }
    for (size_t i = 0; i < sizeof(METHODS) / sizeof(METHODS[0]); i++) {
        PyObject *name = PyBytes_FromString(METHODS[i]);
        PyObject *method = PyUnicode_InternFromString(METHODS[i]);
        int set = name == NULL || method == NULL || PyDict_SetItem(state->methods, name, method) < 0;
        Py_XDECREF(name);
        Py_XDECREF(method);
        if (set)
            return -1;
    }
    state->field_connection = known_field(state, "connection");
    state->field_content_length = known_field(state, "content-length");
    state->field_transfer_encoding = known_field(state, "transfer-encoding");
    state->field_expect = known_field(state, "expect");
    state->field_host = known_field(state, "host");
    state->field_upgrade = known_field(state, "upgrade");
    return state->field_upgrade == NULL ? -1 : 0;
}

/* Stops the parser: `status` is what the client gets. Returns NULL with an exception. */
static PyObject *
refuse_request(Connection *connection, int status, const char *reason)
{
    connection->reject_status = status;
    connection->reject_reason = reason;
    PyErr_SetString(PyExc_ValueError, reason);
    return NULL;
}

/* A callback that httptools would not have made: someone else called it. */
static PyObject *
out_of_order(void)
{
    PyErr_SetString(PyExc_RuntimeError, "a parser callback out of order");
    return NULL;
}

/* ---- the head ---- */

/* Where the next request's line stands, if this slice tells: behind the head and body of the last one. */
static void
advance_line(Connection *connection)
{
    const char *line = connection->line_at;
    connection->line_at = NULL;
    if (line == NULL || connection->chunked || connection->wants_upgrade)
        return;
    size_t left = (size_t)(connection->feed_end - line);
    size_t length = line_head_length(line, left);
    int64_t body = connection->content_length > 0 ? connection->content_length : 0;
    if (length > 0 && (uint64_t)body < left - length)
        connection->line_at = line + length + body;
}

PyObject *
request_on_message_begin(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    (void)unused;
    if (!connection->feeding)
        return out_of_order();
    if (connection->continuing)
        Py_RETURN_NONE; /* no request: the body of the last one, given to the parser anew */
    if (connection->line_used)
        advance_line(connection);
    connection->line_used = true;
    connection->begun_in_slice++;
    connection->head_bytes = 0;
    connection->field_bytes = 0;
    connection->body_overhead = 0;
    connection->body_received = 0;
    connection->host_count = 0;
    connection->content_length = -1;
    connection->chunked = false;
    connection->wants_upgrade = false;
    connection->connection_upgrade = false;
    connection->connection_close = false;
    connection->connection_keep_alive = false;
    if (connection->incoming != NULL)
        return out_of_order();
    connection->incoming = cycle_new(connection->factory, &http1_wire, self);
    if (connection->incoming == NULL)
        return NULL;
    Py_RETURN_NONE;
}

/* Counts bytes of a head. 0, or -1: refused with `status`. */
static int
count_head_bytes(Connection *connection, Py_ssize_t length, int status)
{
    connection->field_bytes += (size_t)length;
    if (connection->field_bytes <= HEAD_LIMIT_BYTES)
        return 0;
    refuse_request(connection, status, head_reason(status));
    return -1;
}

PyObject *
request_on_url(PyObject *self, PyObject *url)
{
    Connection *connection = (Connection *)self;
    Cycle *cycle = connection->incoming;
    if (connection->continuing)
        Py_RETURN_NONE;
    if (cycle == NULL || !PyBytes_CheckExact(url))
        return out_of_order();
    if (count_head_bytes(connection, PyBytes_GET_SIZE(url), 414) < 0)
        return NULL;
    if (cycle->target == NULL) {
        cycle->target = Py_NewRef(url);
        Py_RETURN_NONE;
    }
    PyBytes_Concat(&cycle->target, url); /* a target cut by the end of a read */
    if (cycle->target == NULL)
        return NULL;
    Py_RETURN_NONE;
}

/* The lower-cased name: shared if common. New reference; NULL with MemoryError. */
static PyObject *
lower_field_name(const State *state, PyObject *name)
{
    PyObject *known = PyDict_GetItemWithError(state->field_names, name);
    if (LIKELY(known != NULL))
        return Py_NewRef(known);
    Py_ssize_t length = PyBytes_GET_SIZE(name);
    PyObject *lower = PyBytes_FromStringAndSize(NULL, length);
    if (lower == NULL)
        return NULL;
    chars_lower(PyBytes_AS_STRING(lower), PyBytes_AS_STRING(name), (size_t)length);
    if (length <= 32) {
        /* A common name in an odd case is still the shared object: others compare pointers. */
        known = PyDict_GetItemWithError(state->field_names, lower);
        if (known != NULL)
            Py_SETREF(lower, Py_NewRef(known));
    }
    return lower;
}

/* What the wire itself must know of the request's fields. 0, or -1: refused. */
static int
note_field(Connection *connection, Cycle *cycle, PyObject *name, PyObject *value)
{
    const State *state = connection->factory->state;
    const char *text = PyBytes_AS_STRING(value);
    size_t length = (size_t)PyBytes_GET_SIZE(value);
    if (name == state->field_connection) {
        connection->connection_close |= chars_list_has(text, length, "close");
        connection->connection_keep_alive |= chars_list_has(text, length, "keep-alive");
        connection->connection_upgrade |= chars_list_has(text, length, "upgrade");
    }
    else if (name == state->field_content_length) {
        connection->content_length = chars_content_length(text, length);
        if (connection->content_length < 0) {
            refuse_request(connection, 400, "Bad Request");
            return -1;
        }
    }
    else if (name == state->field_transfer_encoding) {
        connection->chunked = true;
    }
    else if (name == state->field_host) {
        connection->host_count++;
    }
    else if (name == state->field_upgrade) {
        connection->wants_upgrade = true;
    }
    else if (name == state->field_expect) {
        cycle->expects_continue = length == 12 && chars_equal_lower(text, "100-continue", 12);
    }
    return 0;
}

/* RFC 9112 §5.1: optional whitespace behind a value is not part of it. New reference; NULL with MemoryError. */
static PyObject *
without_trailing_space(PyObject *value)
{
    const char *text = PyBytes_AS_STRING(value);
    Py_ssize_t length = PyBytes_GET_SIZE(value);
    while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\t'))
        length--;
    return length == PyBytes_GET_SIZE(value) ? Py_NewRef(value) : PyBytes_FromStringAndSize(text, length);
}

PyObject *
request_on_header(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Connection *connection = (Connection *)self;
    Cycle *cycle = connection->incoming;
    if (count != 2 || !PyBytes_CheckExact(args[0]) || !PyBytes_CheckExact(args[1]))
        return out_of_order();
    if (cycle == NULL)
        Py_RETURN_NONE; /* a trailer: dropped (RFC 9110 §6.5.1), never merged into the fields */
    if (count_head_bytes(connection, PyBytes_GET_SIZE(args[0]) + PyBytes_GET_SIZE(args[1]) + 4, 431) < 0)
        return NULL;
    PyObject *pair = PyTuple_New(2);
    if (pair == NULL)
        return NULL;
    PyObject *name = lower_field_name(connection->factory->state, args[0]);
    PyObject *value = without_trailing_space(args[1]);
    PyTuple_SET_ITEM(pair, 0, name);
    PyTuple_SET_ITEM(pair, 1, value);
    int result = name == NULL || value == NULL ? -1 : PyList_Append(cycle->headers, pair);
    if (result == 0)
        result = note_field(connection, cycle, name, value);
    Py_DECREF(pair);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* The method as a shared str if common. New reference; NULL with an exception. */
static PyObject *
method_name(const State *state, PyObject *bytes)
{
    if (bytes == NULL)
        return NULL;
    PyObject *known = PyDict_GetItemWithError(state->methods, bytes);
    PyObject *method = known != NULL ? Py_NewRef(known)
                                     : PyUnicode_DecodeASCII(PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes), NULL);
    Py_DECREF(bytes);
    return method;
}

/* Version and method, as httptools says. 0, or -1. */
static int
read_line_from_parser(Connection *connection, Cycle *cycle)
{
    const State *state = connection->factory->state;
    PyObject *version = PyObject_Vectorcall(state->parser_version, &connection->parser, 1, NULL);
    if (version == NULL)
        return -1;
    cycle->version_10 = PyUnicode_CompareWithASCIIString(version, "1.0") == 0;
    bool known = cycle->version_10 || PyUnicode_CompareWithASCIIString(version, "1.1") == 0;
    Py_DECREF(version);
    if (!known) {
        refuse_request(connection, 505, "HTTP Version Not Supported");
        return -1;
    }
    cycle->method = method_name(state, PyObject_Vectorcall(state->parser_method, &connection->parser, 1, NULL));
    if (cycle->method == NULL)
        return -1;
    /* llhttp also speaks RTSP and ICE, with methods that it allows there alone, and has no way to say so. */
    for (size_t i = 0; i < sizeof(OTHER_PROTOCOLS) / sizeof(OTHER_PROTOCOLS[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(cycle->method, OTHER_PROTOCOLS[i]) == 0) {
            refuse_request(connection, 400, head_reason(400));
            return -1;
        }
    }
    return 0;
}

/* Version and method: from the bytes themselves where we know where they stand. 0, or -1. */
static int
read_line(Connection *connection, Cycle *cycle)
{
    const char *line = connection->line_at;
    RequestLine found;
    if (line == NULL || !line_peek(line, (size_t)(connection->feed_end - line), &found)) {
        connection->line_at = NULL;
        return read_line_from_parser(connection, cycle);
    }
    cycle->version_10 = false;
    cycle->method = method_name(connection->factory->state,
                                PyBytes_FromStringAndSize(line, (Py_ssize_t)found.method_length));
    return cycle->method == NULL ? -1 : 0;
}

static void
enqueue(Connection *connection, Cycle *cycle)
{
    connection->incoming = NULL;
    if (connection->tail == NULL)
        connection->head = cycle;
    else
        connection->tail->next = cycle;
    connection->tail = cycle;
    connection->receiving = cycle;
    list_remove(&connection->timer);
}

/* What httptools lets pass and HTTP does not. 0, or -1: refused. */
static int
check_head(Connection *connection, Cycle *cycle)
{
    int status = 0;
    if (PyUnicode_CompareWithASCIIString(cycle->method, "CONNECT") == 0)
        status = 501; /* RFC 9110 §9.3.6: we are no proxy */
    else if (connection->host_count > 1 || (connection->host_count == 0 && !cycle->version_10))
        status = 400; /* RFC 9112 §3.2 */
    else if (cycle->version_10 && connection->chunked)
        status = 400; /* RFC 9112 §6.1: a 1.0 message with Transfer-Encoding has faulty framing */
    if (status == 0)
        return 0;
    refuse_request(connection, status, head_reason(status));
    return -1;
}

PyObject *
request_on_headers_complete(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    Cycle *cycle = connection->incoming;
    (void)unused;
    if (connection->continuing)
        Py_RETURN_NONE;
    if (cycle == NULL || cycle->target == NULL || connection->parser == NULL)
        return out_of_order();
    if (read_line(connection, cycle) < 0 || check_head(connection, cycle) < 0)
        return NULL;
    /* RFC 9112 §9.3 */
    cycle->keep_alive = !connection->connection_close && (!cycle->version_10 || connection->connection_keep_alive);
    cycle->head_only = PyUnicode_CompareWithASCIIString(cycle->method, "HEAD") == 0;
    if (cycle->version_10)
        cycle->expects_continue = false; /* RFC 9110 §10.1.1 */
    cycle->client = Py_NewRef(connection->client);
    /* The parser stops behind the head of an Upgrade and would take the body for another protocol. */
    connection->wants_upgrade &= connection->connection_upgrade;
    connection->body_behind_upgrade =
        connection->wants_upgrade && (connection->chunked || connection->content_length > 0);
    enqueue(connection, cycle);
    Py_RETURN_NONE;
}

PyObject *
request_upgrade_ignored(PyObject *self)
{
    Connection *connection = (Connection *)self;
    const State *state = connection->factory->state;
    if (!connection->body_behind_upgrade)
        Py_RETURN_NONE;
    connection->body_behind_upgrade = false;
    PyObject *head = connection->chunked
                         ? PyBytes_FromString("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
                         : PyBytes_FromFormat("POST / HTTP/1.1\r\ncontent-length: %zd\r\n\r\n",
                                              (Py_ssize_t)connection->content_length);
    if (head == NULL)
        return NULL;
    connection->continuing = true;
    connection->feeding = true;
    PyObject *result = call_method1(connection->parser, state->names.feed_data, head);
    connection->continuing = false;
    connection->feeding = false;
    Py_DECREF(head);
    return result;
}

/* ---- the body ---- */

PyObject *
request_on_body(PyObject *self, PyObject *body)
{
    Connection *connection = (Connection *)self;
    Cycle *cycle = connection->receiving;
    if (!PyBytes_CheckExact(body))
        return out_of_order();
    connection->body_received += PyBytes_GET_SIZE(body);
    connection->body_overhead -= 17 * (int64_t)PyBytes_GET_SIZE(body); /* itself, and leave for sixteen more */
    if (cycle == NULL)
        Py_RETURN_NONE; /* answered already */
    Py_INCREF(cycle);
    int result = cycle_feed_body(cycle, body);
    cycle_release(cycle);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

void
request_discarded(PyObject *self)
{
    Connection *connection = (Connection *)self;
    if (!connection->discarding)
        return;
    connection->discarding = false;
    if (connection->head == NULL && !connection->close_after)
        connection_now_idle(connection);
}

PyObject *
request_on_message_complete(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    Cycle *cycle = connection->receiving;
    (void)unused;
    if (connection->body_behind_upgrade)
        Py_RETURN_NONE; /* its body is still to come */
    connection->receiving = NULL;
    if (cycle == NULL) {
        request_discarded(self);
        Py_RETURN_NONE;
    }
    Py_INCREF(cycle);
    cycle_feed_end(cycle);
    cycle_release(cycle);
    Py_RETURN_NONE;
}
