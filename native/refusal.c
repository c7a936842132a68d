/* Answers that the app does not see: to what is no request, and to what is too much. See connection.h. */
#include "connection.h"

#include "head.h"
#include "http2.h"
#include "trace.h"

void
connection_report(const Connection *connection, int status, const char *reason)
{
    PyObject *on_reject = connection->factory->on_reject;
    PyObject *result = PyObject_CallFunction(on_reject, "isO", status, reason, connection->client);
    if (result == NULL)
        PyErr_WriteUnraisable(on_reject);
    Py_XDECREF(result);
}

/* Whether another response can stand behind what was sent. */
static bool
can_answer(const Connection *connection)
{
    const Cycle *broken = connection->current;
    if (connection->output_closed || connection->transport == NULL)
        return false;
    return broken == NULL ? !connection->discarding : broken->response < RESPONSE_BODY;
}

/* Whether what is refused is a HEAD, as far as it is known. */
static bool
is_head(const Connection *connection)
{
    const Cycle *cycle = connection->incoming != NULL ? connection->incoming : connection->current;
    return cycle != NULL ? cycle->head_only : connection->line_text != NULL && connection->line.method == LINE_HEAD;
}

void
connection_reject(Connection *connection, int status, const char *reason)
{
    CHECK(!connection->feeding);
    if (connection->tunnelled) { /* no place for an answer of HTTP/1.1 */
        connection_report(connection, REPORT_CLOSED, reason);
        connection_abort(connection);
        connection_gone(connection);
        return;
    }
    if (connection->http2 != NULL) {
        http2_reject(connection, reason);
        return;
    }
    if (connection->close_after)
        return; /* the last response has been written: what is behind it does not matter */
    bool head_only = is_head(connection);
    bool reset = connection->current != NULL && connection->framing == FRAMING_CLOSE;
    if (!can_answer(connection))
        status = 0;
    connection->rejected = true;
    connection->close_after = true;
    connection->keep = false;
    connection->discarding = true; /* what is still to come is read and dropped */
    connection->body_behind_upgrade = false;
    deadline_stop(connection);
    if (connection->head_open)
        writer_rollback(&connection->out, connection->head_mark);
    connection->head_open = false;
    /* The app of a request whose body broke off must not take it for a whole one. */
    connection_drop_current(connection);
    connection_drop_incoming(connection);
    Py_CLEAR(connection->unparsed);
    if (reset)
        http1_reset(connection);
    if (status > 0 && !connection->output_closed)
        http1_simple_response(connection, status, reason, head_only, false, false);
    connection_report(connection, status, reason);
}

void
connection_refuse_overload(Connection *connection)
{
    Cycle *cycle = (Cycle *)Py_NewRef(connection->current);
    connection->factory->refused++;
    if (trace_begin(cycle) < 0)
        PyErr_WriteUnraisable((PyObject *)connection); /* out of memory */
    if (connection->current == cycle) { /* else the collector ran, and the client went */
        http1_refuse(connection, cycle, 503);
        connection_report(connection, 503, "too many requests in flight (limit-concurrency)");
    }
    cycle_release(cycle);
}
