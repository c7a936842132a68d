/* Answers that the app does not see: to what is no request, and to what is too much. See connection.h. */
#include "connection.h"

#include "head.h"

/* Tells the worker of a request that never reached the app. May run Python. */
static void
report_reject(const Connection *connection, int status, const char *reason)
{
    PyObject *on_reject = connection->factory->on_reject;
    PyObject *result = PyObject_CallFunction(on_reject, "isO", status, reason, connection->client);
    if (result == NULL)
        PyErr_WriteUnraisable(on_reject);
    Py_XDECREF(result);
}

void
connection_reject(Connection *connection, int status, const char *reason)
{
    Cycle *broken = connection->receiving;
    connection_drop_incoming(connection);
    Py_CLEAR(connection->unparsed);
    connection->body_behind_upgrade = false;
    if (connection->reject_status == 0) {
        connection->reject_status = status;
        connection->reject_reason = reason;
    }
    if (broken == NULL)
        return;
    /* The body broke off: it is the last of the queue, and the app must not take it for a whole one. */
    if (connection->head == broken && broken->response == RESPONSE_BODY) {
        connection->reject_status = -1; /* too late for another response: just close */
        connection->keep = false;
    }
    if (connection->head == broken && connection->head_open) {
        writer_rollback(&connection->out, connection->head_mark);
        connection->head_open = false;
    }
    Cycle **at = &connection->head;
    Cycle *before = NULL;
    while (*at != broken) {
        before = *at;
        at = &before->next;
    }
    connection_drop_queue(connection, at, before);
}

void
connection_write_rejection(Connection *connection)
{
    int status = connection->reject_status;
    if (connection->close_after)
        return;
    connection->close_after = true;
    connection->discarding = true; /* what is still to come is read and dropped */
    list_remove(&connection->timer);
    if (status < 0)
        return;
    http1_simple_response(connection, status, connection->reject_reason, NULL, false);
    report_reject(connection, status, connection->reject_reason);
}

bool
connection_refuse_overload(Connection *connection)
{
    if (connection->write_paused)
        return false;
    Cycle *cycle = (Cycle *)Py_NewRef(connection->head);
    connection->factory->refused++;
    http1_refuse(connection, cycle, 503);
    cycle_release(cycle);
    report_reject(connection, 503, "too many requests in flight (limit_concurrency)");
    return true;
}
