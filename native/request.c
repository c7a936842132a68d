/* httptools' callbacks. See request.h. In the order the parser calls them. */
#include "request.h"

#include "account.h"
#include "connection.h"
#include "fields.h"

int
request_init_methods(State *state)
{
#define X(name) state->methods[LINE_##name] = PyUnicode_InternFromString(#name);
    LINE_METHODS(X)
#undef X
    for (int i = 0; i < LINE_OTHER; i++)
        if (state->methods[i] == NULL)
            return -1;
    return 0;
}

int
request_refuse(Connection *connection, int status, const char *reason)
{
    connection->reject_status = status;
    connection->reject_reason = reason;
    PyErr_SetString(PyExc_ValueError, reason);
    return -1;
}

/* A callback that httptools would not have made: someone else called it. */
static PyObject *
out_of_order(void)
{
    PyErr_SetString(PyExc_RuntimeError, "a parser callback out of order");
    return NULL;
}

/* ---- the head ---- */

/* The method of the line that is being parsed. New reference; NULL with an exception. */
static PyObject *
method_name(const Connection *connection)
{
    const RequestLine *line = &connection->line;
    if (LIKELY(line->method != LINE_OTHER))
        return Py_NewRef(connection->factory->state->methods[line->method]);
    return PyUnicode_DecodeASCII(connection->line_text, (Py_ssize_t)line->method_length, NULL);
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
    if (connection->input != INPUT_LINE || connection->line_text == NULL || connection->incoming != NULL) {
        /* The parser sees a request begin where we do not: it is not executed, whoever is right. */
        request_refuse(connection, 400, "the end of the message is not where it must be");
        return NULL;
    }
    connection->input = INPUT_HEAD;
    connection->body_overhead = 0;
    connection->body_received = 0;
    fields_begin(connection);
    Cycle *cycle = cycle_new(connection->factory, &http1_wire, self);
    if (cycle == NULL)
        return NULL;
    connection->incoming = cycle;
    cycle->method = method_name(connection);
    if (cycle->method == NULL)
        return NULL;
    cycle->version_10 = connection->line.version_10;
    cycle->head_only = connection->line.method == LINE_HEAD;
    cycle->method_kind = (uint8_t)connection->line.method;
    cycle->begun_ns = account_now_ns();
    Py_RETURN_NONE;
}

PyObject *
request_on_url(PyObject *self, PyObject *url)
{
    Connection *connection = (Connection *)self;
    Cycle *cycle = connection->incoming;
    if (connection->continuing)
        Py_RETURN_NONE;
    if (cycle == NULL || cycle->target != NULL || !PyBytes_CheckExact(url) || PyBytes_GET_SIZE(url) == 0)
        return out_of_order(); /* a line is parsed whole, so a target comes whole */
    cycle->target = Py_NewRef(url);
    Py_RETURN_NONE;
}

PyObject *
request_on_header(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Connection *connection = (Connection *)self;
    Cycle *cycle = connection->incoming;
    if (count != 2 || !PyBytes_CheckExact(args[0]) || !PyBytes_CheckExact(args[1]))
        return out_of_order();
    if (connection->continuing)
        Py_RETURN_NONE;
    int result;
    if (cycle == NULL)
        result = fields_take_trailer(connection, args[0]);
    else if ((result = fields_admit(connection, PyBytes_GET_SIZE(args[0]), PyBytes_GET_SIZE(args[1]))) == 0)
        result = fields_take(connection, cycle, args[0], args[1]);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
request_on_headers_complete(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    Cycle *cycle = connection->incoming;
    (void)unused;
    if (connection->continuing)
        Py_RETURN_NONE;
    if (cycle == NULL || cycle->target == NULL || connection->parser == NULL || connection->current != NULL)
        return out_of_order();
    if (fields_check(connection, cycle) < 0)
        return NULL;
    /* RFC 9112 §9.3 */
    cycle->keep_alive = !connection->connection_close && (!cycle->version_10 || connection->connection_keep_alive);
    if (cycle->version_10)
        cycle->expects_continue = false; /* RFC 9110 §10.1.1 */
    cycle->client = Py_NewRef(connection->client);
    bool has_body = connection->coding == CODING_CHUNKED || connection->content_length > 0;
    if (has_body)
        connection->input = INPUT_BODY;
    /* The parser stops behind the head of an Upgrade and would take the body for another protocol. */
    connection->wants_upgrade &= connection->connection_upgrade;
    connection->body_behind_upgrade = connection->wants_upgrade && has_body;
    if (connection->request_count++ > 0)
        figures_add(&connection->factory->figures, FIGURE_reused);
    connection->incoming = NULL;
    connection->current = cycle;
    connection->receiving = cycle;
    deadline_stop(connection);
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
    PyObject *head = connection->coding == CODING_CHUNKED
                         ? PyBytes_FromString("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
                         : PyBytes_FromFormat("POST / HTTP/1.1\r\ncontent-length: %zd\r\n\r\n",
                                              (Py_ssize_t)connection->content_length);
    /* Another parser: this one may have seen "Connection: close", behind which it takes nothing. */
    PyObject *parser = head == NULL ? NULL : PyObject_CallOneArg(state->HttpRequestParser, self);
    if (parser == NULL || connection->parser == NULL) {
        Py_XDECREF(head);
        Py_XDECREF(parser);
        return parser == NULL ? NULL : out_of_order();
    }
    Py_SETREF(connection->parser, parser);
    connection->continuing = true;
    connection->feeding = true;
    PyObject *args[2] = {parser, head};
    PyObject *result = PyObject_Vectorcall(state->parser_feed, args, 2, NULL);
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
    if (UNLIKELY(connection->body_received > connection->factory->limits.request_body)) {
        request_refuse(connection, 413, "the request body is larger than limit-request-body");
        return NULL;
    }
    if (cycle == NULL)
        Py_RETURN_NONE; /* answered already */
    Py_INCREF(cycle);
    int result = cycle_feed_body(cycle, body);
    cycle_release(cycle);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* The body that nobody wanted has been read: the connection is free for the next request. */
static void
discarded(Connection *connection)
{
    if (!connection->discarding)
        return;
    connection->discarding = false;
    if (connection->current == NULL && !connection->close_after)
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
    connection->input = INPUT_LINE;
    connection->receiving = NULL;
    if (cycle == NULL) {
        discarded(connection);
        Py_RETURN_NONE;
    }
    Py_INCREF(cycle);
    cycle_feed_end(cycle);
    cycle_release(cycle);
    Py_RETURN_NONE;
}
