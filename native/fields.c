/* The fields of a request. See fields.h. In the order of a head: names, one field, trailers, the whole. */
#include "fields.h"

#include "chars.h"
#include "forwarded.h"
#include "request.h"

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
    "remote-user",     "x-remote-user",      "x-forwarded-user",
    "sec-ch-ua",       "sec-ch-ua-mobile",   "sec-ch-ua-platform",
    "sec-fetch-dest",  "sec-fetch-mode",     "sec-fetch-site",
    "sec-fetch-user",  "sec-gpc",            "sec-websocket-extensions",
    "sec-websocket-key", "sec-websocket-protocol", "sec-websocket-version",
    "te",              "traceparent",        "tracestate",
    "trailer",         "transfer-encoding",  "upgrade",
    "upgrade-insecure-requests", "user-agent", "via",
    "x-csrf-token",    "x-forwarded-for",    "x-forwarded-host",
    "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto", "x-real-ip",
    "x-request-id",    "x-requested-with",
};

/* Fields that decide where a message ends, where it goes or who may send it; a trailer must not (RFC 9110 §6.5.1). */
static const char *const NO_TRAILERS[] = {
    "authorization", "connection", "content-length", "cookie", "expect", "forwarded", "host", "keep-alive",
    "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
};

/* RFC 9110 §8.4.1, with the aliases: codings that exist, and that we do not undo. */
static const char *const CODINGS[] = {"gzip", "x-gzip", "deflate", "compress", "x-compress", "identity"};

static const char *const POLICIES[] = {"safe", "allow", "drop", "reject"}; /* Underscores */

/* What a field costs beyond its texts, as a line of HTTP/1.1: a colon, a space, CRLF. */
#define FIELD_LINE_BYTES 4

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

int
fields_underscores(const char *name)
{
    for (size_t i = 0; i < COUNT(POLICIES); i++)
        if (strcmp(name, POLICIES[i]) == 0)
            return (int)i;
    PyErr_Format(PyExc_ValueError, "underscore_headers must be safe, allow, drop or reject, not '%.40s'", name);
    return -1;
}

/* ---- names ---- */

/* "x-request-id" -> "X-Request-Id". New bytes; NULL with MemoryError. */
static PyObject *
title_case(PyObject *lower)
{
    const char *from = PyBytes_AS_STRING(lower);
    PyObject *title = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(lower));
    if (title == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(title);
    for (Py_ssize_t i = 0; i < PyBytes_GET_SIZE(title); i++) {
        bool first = i == 0 || from[i - 1] == '-';
        to[i] = first && from[i] >= 'a' && from[i] <= 'z' ? (char)(from[i] - 'a' + 'A') : from[i];
    }
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
fields_init_names(State *state)
{
    state->field_names = PyDict_New();
    if (state->field_names == NULL)
        return -1;
    for (size_t i = 0; i < COUNT(COMMON_FIELDS); i++) {
        PyObject *lower = PyBytes_FromString(COMMON_FIELDS[i]);
        PyObject *title = lower == NULL ? NULL : title_case(lower);
        int set = title == NULL || PyDict_SetItem(state->field_names, lower, lower) < 0 ||
                  PyDict_SetItem(state->field_names, title, lower) < 0;
        Py_XDECREF(lower);
        Py_XDECREF(title);
        if (set)
            return -1;
    }
    state->field_connection = known_field(state, "connection");
    state->field_content_length = known_field(state, "content-length");
    state->field_transfer_encoding = known_field(state, "transfer-encoding");
    state->field_expect = known_field(state, "expect");
    state->field_host = known_field(state, "host");
    state->field_cookie = known_field(state, "cookie");
    state->field_upgrade = known_field(state, "upgrade");
    state->field_te = known_field(state, "te");
    state->field_traceparent = known_field(state, "traceparent");
    state->field_authorization = known_field(state, "authorization");
    return state->field_authorization == NULL ? -1 : 0;
}

/* The lower-cased name: shared if common (*is_known). New reference; NULL with MemoryError. */
static PyObject *
lower_field_name(const State *state, PyObject *name, bool *is_known)
{
    PyObject *known = PyDict_GetItemWithError(state->field_names, name);
    *is_known = known != NULL;
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
        *is_known = known != NULL;
    }
    return lower;
}

/* ---- one field ---- */

void
fields_begin(Connection *connection)
{
    connection->field_count = 0;
    connection->host_count = 0;
    connection->content_length = -1;
    connection->coding = CODING_NONE;
    connection->expectation_failed = false;
    connection->underscored = false;
    connection->forwarded = false;
    connection->wants_upgrade = false;
    connection->wants_websocket = false;
    connection->connection_upgrade = false;
    connection->connection_close = false;
    connection->connection_keep_alive = false;
}

int
fields_admit(Connection *connection, Py_ssize_t name_length, Py_ssize_t value_length)
{
    const Limits *limits = &connection->factory->limits;
    if (UNLIKELY(++connection->field_count > limits->request_fields))
        return request_refuse(connection, 431, "more fields than limit-request-fields");
    if (UNLIKELY(name_length + value_length + FIELD_LINE_BYTES > limits->request_field_size))
        return request_refuse(connection, 431, "a field is larger than limit-request-field-size");
    return 0;
}

/* The coding after one more member of the list. */
static Coding
next_coding(Coding so_far, const char *text, size_t length)
{
    bool ended = so_far == CODING_CHUNKED || so_far == CODING_STACKED || so_far == CODING_BAD;
    if (ended)
        return CODING_BAD; /* chunked is the last, and there once (RFC 9112 §6.1) */
    if (length == 7 && chars_equal_lower(text, "chunked", 7))
        return so_far == CODING_NONE ? CODING_CHUNKED : CODING_STACKED;
    for (size_t i = 0; i < COUNT(CODINGS); i++)
        if (length == strlen(CODINGS[i]) && chars_equal_lower(text, CODINGS[i], length))
            return CODING_OTHER;
    return CODING_BAD;
}

/* One Transfer-Encoding field. A second one goes on where the first ended (RFC 9110 §5.3). */
static Coding
read_coding(Coding coding, const char *text, size_t length)
{
    const char *end = text + length;
    for (;;) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        const char *stop = comma == NULL ? end : comma;
        while (text < stop && (*text == ' ' || *text == '\t'))
            text++;
        const char *last = stop;
        while (last > text && (last[-1] == ' ' || last[-1] == '\t'))
            last--;
        coding = next_coding(coding, text, (size_t)(last - text));
        if (comma == NULL)
            return coding;
        text = comma + 1;
    }
}

/* What the wire itself must know of the request's fields. 0, or -1: refused. */
static int
note_field(Connection *connection, Cycle *cycle, PyObject *name, PyObject *value)
{
    const State *state = connection->factory->state;
    const char *text = PyBytes_AS_STRING(value);
    size_t length = (size_t)PyBytes_GET_SIZE(value);
    if (name == state->field_host) {
        if (++connection->host_count > 1 || !chars_is_host(text, length))
            return request_refuse(connection, 400, "there must be one valid Host field"); /* RFC 9112 §3.2 */
    }
    else if (name == state->field_connection) {
        connection->connection_close |= chars_list_has(text, length, "close");
        connection->connection_keep_alive |= chars_list_has(text, length, "keep-alive");
        connection->connection_upgrade |= chars_list_has(text, length, "upgrade");
    }
    else if (name == state->field_content_length) {
        connection->content_length = chars_content_length(text, length);
        if (connection->content_length < 0)
            return request_refuse(connection, 400, "Content-Length is not a number of bytes");
    }
    else if (name == state->field_transfer_encoding) {
        connection->coding = (uint8_t)read_coding((Coding)connection->coding, text, length);
        if (connection->coding == CODING_BAD)
            return request_refuse(connection, 400, "Transfer-Encoding is not chunked");
    }
    else if (name == state->field_upgrade) {
        connection->wants_upgrade = true;
        connection->wants_websocket |= chars_list_has(text, length, "websocket");
    }
    else if (name == state->field_expect) {
        cycle->expects_continue = length == 12 && chars_equal_lower(text, "100-continue", 12);
        connection->expectation_failed |= !cycle->expects_continue;
    }
    else if (name == state->field_te) {
        cycle->takes_trailers |= chars_list_has(text, length, "trailers"); /* RFC 9110 §10.1.4 */
    }
    else if (connection->factory->proxy != NULL) {
        connection->forwarded |= forwarded_is_field(name);
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

/* Whether the field is to be dropped, or (-1) the request refused, for an underscore in its name. */
static int
judge_underscore(Connection *connection)
{
    switch ((Underscores)connection->factory->underscores) {
    case UNDERSCORES_ALLOW: return 0;
    case UNDERSCORES_DROP: return 1;
    case UNDERSCORES_REJECT: return request_refuse(connection, 400, "a field name has an underscore (underscore-headers)");
    case UNDERSCORES_SAFE: break;
    }
    connection->underscored = true;
    return 0;
}

static bool
has_underscore(PyObject *name)
{
    return memchr(PyBytes_AS_STRING(name), '_', (size_t)PyBytes_GET_SIZE(name)) != NULL;
}

int
fields_add(Connection *connection, Cycle *cycle, PyObject *name, bool known, PyObject *value)
{
    PyObject *pair = name == NULL || value == NULL ? NULL : PyTuple_New(2);
    if (pair == NULL) {
        Py_XDECREF(name);
        Py_XDECREF(value);
        return -1;
    }
    PyTuple_SET_ITEM(pair, 0, name);
    PyTuple_SET_ITEM(pair, 1, value);
    int result = 0;
    if (known)
        result = note_field(connection, cycle, name, value);
    else if (has_underscore(name))
        result = judge_underscore(connection);
    if (result == 0)
        result = PyList_Append(cycle->headers, pair);
    Py_DECREF(pair);
    return result < 0 ? -1 : 0;
}

int
fields_take(Connection *connection, Cycle *cycle, PyObject *given_name, PyObject *given_value)
{
    bool known = false;
    PyObject *name = lower_field_name(connection->factory->state, given_name, &known);
    return fields_add(connection, cycle, name, known, name == NULL ? NULL : without_trailing_space(given_value));
}

/* ---- trailers ---- */

bool
fields_forbid_trailer(const char *name, size_t length)
{
    for (size_t i = 0; i < COUNT(NO_TRAILERS); i++)
        if (length == strlen(NO_TRAILERS[i]) && chars_equal_lower(name, NO_TRAILERS[i], length))
            return true;
    return false;
}

int
fields_take_trailer(Connection *connection, PyObject *name)
{
    if (fields_forbid_trailer(PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name)))
        return request_refuse(connection, 400, "a trailer that frames, routes or authorizes");
    return 0;
}

/* ---- the whole ---- */

/* The name with a dash for every underscore. New bytes, or NULL. */
static PyObject *
dashed(PyObject *name)
{
    const char *from = PyBytes_AS_STRING(name);
    PyObject *result = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(name)); /* one made of a byte would be shared */
    if (result == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(result);
    for (Py_ssize_t i = 0; i < PyBytes_GET_SIZE(result); i++)
        to[i] = from[i] == '_' ? '-' : from[i];
    return result;
}

/* Whether `name`, which has an underscore, would pass for another field. 1, 0, or -1 with an exception. */
static int
is_shadow(const State *state, PyObject *names, PyObject *name)
{
    PyObject *other = dashed(name);
    if (other == NULL)
        return -1;
    int known = PyDict_Contains(state->field_names, other);
    int result = known != 0 ? known : PySet_Contains(names, other);
    Py_DECREF(other);
    return result;
}

int
fields_drop_shadows(const State *state, Cycle *cycle)
{
    PyObject *kept = PyList_New(0);
    PyObject *names = PySet_New(NULL);
    int result = kept == NULL || names == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(cycle->headers); i++)
        result = PySet_Add(names, PyTuple_GET_ITEM(PyList_GET_ITEM(cycle->headers, i), 0));
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(cycle->headers); i++) {
        PyObject *pair = PyList_GET_ITEM(cycle->headers, i);
        PyObject *name = PyTuple_GET_ITEM(pair, 0);
        int shadow = has_underscore(name) ? is_shadow(state, names, name) : 0;
        result = shadow < 0 ? -1 : shadow ? 0 : PyList_Append(kept, pair);
    }
    if (result == 0)
        Py_SETREF(cycle->headers, Py_NewRef(kept));
    Py_XDECREF(kept);
    Py_XDECREF(names);
    return result;
}

int
fields_check_body(Connection *connection)
{
    if (connection->content_length > connection->factory->limits.request_body)
        return request_refuse(connection, 413, "the request body is larger than limit-request-body");
    if (connection->expectation_failed)
        return request_refuse(connection, 417, "only 100-continue is understood in Expect"); /* RFC 9110 §10.1.1 */
    return 0;
}

/* RFC 9112 §3.2.2: the host of an absolute target counts, not the Host field. 0, or -1: refused. */
static int
put_target_host(Connection *connection, Cycle *cycle)
{
    const char *text = PyBytes_AS_STRING(cycle->target);
    const char *end = text + PyBytes_GET_SIZE(cycle->target);
    const char *host = (const char *)memchr(text, ':', (size_t)(end - text)) + 3; /* line_check() saw "://" */
    const char *stop = host;
    while (stop < end && *stop != '/' && *stop != '?')
        stop++;
    if (stop == host || !chars_is_host(host, (size_t)(stop - host)))
        return request_refuse(connection, 400, "the request target has no valid host");
    PyObject *name = connection->factory->state->field_host;
    PyObject *value = PyBytes_FromStringAndSize(host, stop - host);
    PyObject *pair = value == NULL ? NULL : PyTuple_Pack(2, name, value);
    Py_ssize_t count = PyList_GET_SIZE(cycle->headers);
    Py_ssize_t at = 0;
    while (at < count && PyTuple_GET_ITEM(PyList_GET_ITEM(cycle->headers, at), 0) != name)
        at++;
    int result = -1;
    if (pair != NULL)
        result = at < count ? PyList_SetItem(cycle->headers, at, Py_NewRef(pair)) : PyList_Append(cycle->headers, pair);
    Py_XDECREF(pair);
    Py_XDECREF(value);
    return result;
}

/* What httptools lets pass and HTTP does not. 0, or -1: refused. */
static int
check_framing(Connection *connection, const Cycle *cycle)
{
    if (connection->host_count == 0 && !cycle->version_10)
        return request_refuse(connection, 400, "there must be one valid Host field"); /* RFC 9112 §3.2 */
    if (cycle->version_10 && connection->coding != CODING_NONE)
        return request_refuse(connection, 400, "Transfer-Encoding in HTTP/1.0"); /* RFC 9112 §6.1 */
    if (connection->coding == CODING_OTHER)
        return request_refuse(connection, 400, "Transfer-Encoding is not chunked"); /* RFC 9112 §6.3 */
    if (connection->coding == CODING_STACKED)
        return request_refuse(connection, 501, "only chunked is understood as Transfer-Encoding");
    return fields_check_body(connection);
}

int
fields_check(Connection *connection, Cycle *cycle)
{
    char form = PyBytes_AS_STRING(cycle->target)[0];
    if (check_framing(connection, cycle) < 0)
        return -1;
    if (UNLIKELY(connection->underscored) && fields_drop_shadows(connection->factory->state, cycle) < 0)
        return -1;
    return LIKELY(form == '/' || form == '*') ? 0 : put_target_host(connection, cycle);
}
