/* Gives httptools one part of a message at a time. See feed.h. */
#include "feed.h"

#include "fields.h"
#include "head.h"
#include "request.h"

/* Chunked body bytes parsed at a time: what one connection can bring ahead of its running app. */
#define SLICE_BYTES 16384
/* Chunk framing beyond 16 times the body it brings is bounded by this. */
#define OVERHEAD_LIMIT_BYTES 65536

/* ---- the parser ---- */

/* feed_data stopped. Whether that was only an Upgrade behind which HTTP goes on; else nothing more will be parsed. */
static bool
parser_stopped(Connection *connection, Py_ssize_t length)
{
    const State *state = connection->factory->state;
    PyObject *error = error_take();
    bool goes_on = false;
    if (PyErr_GivenExceptionMatches(error, state->HttpParserUpgrade)) {
        /* We did not ask to upgrade (RFC 9110 §7.8 lets a server ignore it). It stops behind the head, as we do. */
        PyObject *args = PyObject_GetAttrString(error, "args");
        goes_on = args != NULL && PyTuple_Check(args) && PyTuple_GET_SIZE(args) == 1 &&
                  PyLong_AsSsize_t(PyTuple_GET_ITEM(args, 0)) == length;
        Py_XDECREF(args);
        PyObject *ignored = PyErr_Occurred() ? NULL : request_upgrade_ignored((PyObject *)connection);
        if (ignored == NULL) {
            PyErr_WriteUnraisable((PyObject *)connection);
            goes_on = false;
        }
        Py_XDECREF(ignored);
    }
    if (!goes_on && connection->reject_status != 0) {
        connection_reject(connection, connection->reject_status, connection->reject_reason);
    }
    else if (!goes_on) {
        PyObject *text = PyObject_Str(error);
        const char *reason = text == NULL ? NULL : PyUnicode_AsUTF8(text);
        if (reason == NULL)
            PyErr_Clear();
        connection_reject(connection, 400, reason == NULL || *reason == '\0' ? head_reason(400) : reason);
        Py_XDECREF(text);
    }
    Py_DECREF(error);
    return goes_on;
}

/* What ended the connection while the parser was on the stack. */
static void
end_after_feeding(Connection *connection)
{
    connection->gone_pending = false;
    connection_gone(connection);
    if (!connection->lost_pending)
        return;
    connection->lost_pending = false;
    Py_XDECREF(connection_lost((PyObject *)connection, Py_None));
}

/* Gives `length` bytes at `text`, inside `data`, to the parser. False: nothing more will be parsed. */
static bool
parse(Connection *connection, PyObject *data, const char *text, Py_ssize_t length)
{
    const State *state = connection->factory->state;
    connection->feeding = true;
    PyObject *part = length == PyBytes_GET_SIZE(data) ? Py_NewRef(data)
                                                      : PyMemoryView_FromMemory((char *)text, length, PyBUF_READ);
    PyObject *result = NULL;
    if (part != NULL) {
        PyObject *args[2] = {connection->parser, part};
        result = PyObject_Vectorcall(state->parser_feed, args, 2, NULL);
    }
    Py_XDECREF(part);
    connection->feeding = false;
    if (UNLIKELY(connection->lost_pending || connection->gone_pending)) {
        Py_XDECREF(result);
        PyErr_Clear();
        end_after_feeding(connection);
        return false;
    }
    if (result == NULL)
        return parser_stopped(connection, length);
    Py_DECREF(result);
    return true;
}

/* ---- the head ---- */

/* Gives the parser `before` bytes of a request line and what follows it of the fields, up to their end. */
static Py_ssize_t
feed_fields(Connection *connection, PyObject *data, const char *text, Py_ssize_t before, const char *end)
{
    const char *fields = text + before;
    int64_t room = connection->factory->limits.request_head - connection->head_bytes;
    bool fits = end - fields <= room;
    size_t available = fits ? (size_t)(end - fields) : (size_t)room;
    size_t head = line_head_end(fields, available, &connection->end_matched);
    size_t length = head > 0 ? head : available;
    connection->head_bytes += (int64_t)length;
    if (!parse(connection, data, text, before + (Py_ssize_t)length))
        return -1;
    if (UNLIKELY((head > 0) != (connection->incoming == NULL)))
        connection_reject(connection, 400, "the end of the head is not where it must be");
    else if (UNLIKELY(head == 0 && !fits))
        connection_reject(connection, 431, "the fields are larger than limit-request-head");
    else
        return before + (Py_ssize_t)length;
    return -1;
}

/* Gives the parser a line that line_check() found right, and what follows it of the fields. */
static Py_ssize_t
feed_line(Connection *connection, PyObject *data, const char *text, Py_ssize_t line_length, const char *end)
{
    Py_ssize_t known = 0;
    connection->line_text = text;
    connection->head_bytes = 0;
    connection->end_matched = 2; /* the CRLF of the line may be the first half */
    if (UNLIKELY(connection->line.method == LINE_OTHER)) {
        /* httptools knows some methods only, and does not care which: it hears of POST instead. */
        PyObject *post = connection->factory->state->post_bytes;
        known = (Py_ssize_t)connection->line.method_length;
        if (!parse(connection, post, PyBytes_AS_STRING(post), PyBytes_GET_SIZE(post)))
            known = -1;
    }
    Py_ssize_t taken =
        known < 0 ? -1 : feed_fields(connection, data, text + known, line_length - known, end);
    connection->line_text = NULL;
    return taken < 0 ? -1 : taken + known;
}

/* Keeps the beginning of a line until its end comes. */
static Py_ssize_t
keep_partial_line(Connection *connection, const char *text, const char *end)
{
    PyObject *partial = PyBytes_FromStringAndSize(text, end - text);
    if (partial == NULL) {
        PyErr_WriteUnraisable((PyObject *)connection);
        connection_abort(connection);
        return -1;
    }
    Py_XSETREF(connection->partial_line, partial);
    return end - text;
}

/* A request line, which is looked at only when all of it is there. */
static Py_ssize_t
take_line(Connection *connection, PyObject *data, const char *text, const char *end)
{
    int64_t limit = connection->factory->limits.request_line;
    Py_ssize_t left = end - text;
    bool reach_ends = left - 2 >= limit;
    const char *newline = memchr(text, '\n', (size_t)(reach_ends ? limit + 2 : left));
    int status = 0;
    if (newline == NULL) {
        if (*text == '\r' && left == 1)
            return keep_partial_line(connection, text, end);
        status = line_may_begin(text, (size_t)left);
        if (status == 0 && !reach_ends)
            return keep_partial_line(connection, text, end);
        if (status == 0)
            status = 414;
    }
    else if (newline == text + 1 && *text == '\r') {
        return 2; /* RFC 9112 §2.2: an empty line before a request */
    }
    else if (newline == text || newline[-1] != '\r') {
        status = line_may_begin(text, (size_t)(newline - text)); /* as if the LF had not come yet */
        if (status == 0)
            status = 400;
    }
    else {
        status = line_check(text, (size_t)(newline - text) - 1, &connection->line);
    }
    if (status == 0)
        return feed_line(connection, data, text, newline + 1 - text, end);
    connection->line_text = text;
    connection->line.method = left >= 5 && memcmp(text, "HEAD ", 5) == 0 ? LINE_HEAD : LINE_OTHER;
    connection_reject(connection, status, status == 414   ? "the request line is longer than limit-request-line"
                                          : status == 400 ? "not an HTTP request line"
                                                          : head_reason(status));
    connection->line_text = NULL;
    return -1;
}

/* ---- the body ---- */

/* After a part of a chunked body: whether its framing stays within what the body it brought allows. One-byte chunks do, an
 * endless chunk extension or trailer does not, however much body came before. */
static bool
is_framing_bearable(Connection *connection, Py_ssize_t length)
{
    connection->body_overhead += length; /* request_on_body() took the body bytes off, sixteenfold */
    if (connection->input != INPUT_BODY || connection->body_overhead < 0)
        connection->body_overhead = 0;
    if (connection->body_overhead <= OVERHEAD_LIMIT_BYTES)
        return true;
    connection_reject(connection, 400, "chunk extensions or trailers without end");
    return false;
}

/* A body up to its end: known by its length, or behind some CRLF CRLF. */
static Py_ssize_t
feed_body(Connection *connection, PyObject *data, const char *text, const char *end)
{
    Py_ssize_t length = end - text;
    bool chunked = connection->coding == CODING_CHUNKED;
    if (chunked) {
        size_t slice = length < SLICE_BYTES ? (size_t)length : SLICE_BYTES;
        size_t found = line_head_end(text, slice, &connection->end_matched);
        length = (Py_ssize_t)(found > 0 ? found : slice);
    }
    else if (length > connection->content_length - connection->body_received) {
        length = (Py_ssize_t)(connection->content_length - connection->body_received);
    }
    if (!parse(connection, data, text, length) || (chunked && !is_framing_bearable(connection, length)))
        return -1;
    if (LIKELY(chunked || (connection->body_received == connection->content_length) == (connection->input == INPUT_LINE)))
        return length;
    connection_reject(connection, 400, "the end of the body is not where it must be");
    return -1;
}

Py_ssize_t
feed_part(Connection *connection, PyObject *data, const char *text, const char *end)
{
    switch ((Input)connection->input) {
    case INPUT_LINE: return take_line(connection, data, text, end);
    case INPUT_HEAD: return feed_fields(connection, data, text, 0, end);
    case INPUT_BODY: break;
    }
    return feed_body(connection, data, text, end);
}
