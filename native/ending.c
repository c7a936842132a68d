/* The ways a connection ends: dropped, closed, aborted, ended by the peer, lost. See connection.h. */
#include "connection.h"

#include "account.h"
#include "await.h"
#include "file.h"
#include "http2.h"
#include "websocket.h"

/* Lets go of a cycle that the app has not seen, or hears of its end. Steals the reference. */
static void
drop_cycle(Cycle *cycle)
{
    if (cycle == NULL)
        return;
    cycle_disconnect(cycle);
    cycle_release(cycle);
}

void
connection_drop_incoming(Connection *connection)
{
    Cycle *cycle = connection->incoming;
    connection->incoming = NULL;
    Py_CLEAR(connection->partial_line);
    drop_cycle(cycle);
}

void
connection_drop_current(Connection *connection)
{
    Cycle *cycle = connection->current;
    if (cycle != NULL)
        account_broken_off(connection, cycle); /* may run Python */
    if (connection->current != cycle)
        return; /* which has ended it */
    file_drop(connection); /* it is a part of the response */
    connection->current = NULL;
    connection->receiving = NULL;
    drop_cycle(cycle);
}

static void
drop_everything(Connection *connection)
{
    connection_drop_current(connection);
    connection_drop_incoming(connection);
    if (connection->http2 != NULL)
        http2_drop(connection);
    Py_CLEAR(connection->unparsed);
    connection->head_open = false;
    if (connection->websocket != NULL)
        websocket_drop_input(connection->websocket);
}

void
connection_gone(Connection *connection)
{
    connection_close_output(connection);
    if (connection->feeding) {
        connection->gone_pending = true; /* the parser's callbacks are on the stack */
        return;
    }
    drop_everything(connection);
    writer_clear(&connection->out);
    futures_wake(connection->factory->state, &connection->write_futures);
}

/* Whether the transport can close our side alone (TLS cannot). May run Python. */
static bool
can_write_eof(Connection *connection)
{
    if (connection->transport == NULL)
        return false;
    PyObject *transport = Py_NewRef(connection->transport);
    PyObject *answer = call_method0(transport, connection->factory->state->names.can_write_eof);
    if (answer == NULL)
        PyErr_WriteUnraisable(transport);
    bool can = answer == Py_True;
    Py_XDECREF(answer);
    Py_DECREF(transport);
    return can;
}

/* A TLS transport gives what it holds so many seconds from close() on, however fast the client takes it. So close()
 * comes once it holds nothing; until then the write stall is watched. Whether that is so. May run Python. */
static bool
close_later(Connection *connection)
{
    if (!connection->secure || !connection->handed_off || deadline_held_bytes(connection) <= 0)
        return false;
    /* With a limit of 0 pause_writing() has come by the end of this, and resume_writing() will. */
    connection->close_when_taken = true;
    PyObject *transport = Py_XNewRef(connection->transport);
    PyObject *zero = PyLong_FromLong(0);
    PyObject *result = transport == NULL || zero == NULL
                           ? NULL
                           : call_method1(transport, connection->factory->state->names.set_write_buffer_limits, zero);
    if (result == NULL) {
        connection->close_when_taken = false;
        if (PyErr_Occurred())
            PyErr_WriteUnraisable(transport);
    }
    bool later = result != NULL;
    Py_XDECREF(result);
    Py_XDECREF(zero);
    Py_XDECREF(transport);
    return later;
}

void
connection_close(Connection *connection)
{
    const State *state = connection->factory->state;
    if (connection->feeding) {
        connection->close_after = true;
        return;
    }
    bool input_expected = connection->discarding && !connection->input_ended;
    drop_everything(connection);
    if (input_expected && can_write_eof(connection)) {
        /* RFC 9112 §9.6: close the sending side first, or a reset may destroy the response unread. */
        connection->lingering = true;
        deadline_start(connection, DEADLINE_LINGER);
        connection_close_output(connection);
        connection_call_transport(connection, state->names.write_eof);
        if (connection->reading_paused) {
            connection->reading_paused = false;
            connection_call_transport(connection, state->names.resume_reading);
        }
        return;
    }
    connection->closing = true;
    connection_close_output(connection);
    deadline_stop(connection);
    if (!close_later(connection))
        connection_call_transport(connection, state->names.close);
}

void
connection_abort(Connection *connection)
{
    const State *state = connection->factory->state;
    connection->closing = true;
    connection_close_output(connection);
    deadline_stop(connection);
    list_remove(&connection->stall_timer);
    list_remove(&connection->idle_timer);
    connection_call_transport(connection, state->names.abort);
}

/* Tells the request that its client will send no more. */
static void
tell_input_closed(Connection *connection)
{
    Cycle *cycle = (Cycle *)Py_XNewRef(connection->current);
    if (cycle == NULL)
        return;
    cycle_input_closed(cycle);
    cycle_release(cycle);
}

void
connection_input_over(Connection *connection)
{
    connection_drop_incoming(connection);
    if (connection->receiving != NULL) {
        /* RFC 9112 §8: an incomplete request; nobody can say what it was to be. */
        connection->keep = false;
        connection_abort(connection);
        connection_gone(connection);
    }
    tell_input_closed(connection);
}

PyObject *
connection_eof_received(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    (void)unused;
    connection->input_ended = true;
    if (connection->lingering || connection->closing)
        Py_RETURN_FALSE;
    Py_INCREF(connection);
    if (connection->secure || connection->http2 != NULL) {
        /* HTTP/2 says GOAWAY, and has no half-closed connections. asyncio's TLS transports close both ways (RFC 8446 §6.1
         * has one): what comes now would not be sent. */
        connection->closing = true;
        deadline_stop(connection);
        connection_gone(connection);
        connection_check(connection);
        Py_DECREF(connection);
        Py_RETURN_FALSE;
    }
    if (connection->websocket != NULL) {
        bool kept = websocket_eof(connection);
        connection_check(connection);
        Py_DECREF(connection);
        return PyBool_FromLong(kept);
    }
    if (connection->current != NULL && connection->current->websocket != NULL)
        Py_CLEAR(connection->unparsed); /* frames: no WebSocket can come of the handshake any more */
    if (connection->unparsed == NULL && !connection->feeding)
        connection_input_over(connection);
    else if (connection->receiving == NULL)
        tell_input_closed(connection); /* the rest is still to be parsed: connection_resume() */
    bool keep_open = connection->current != NULL || connection->unparsed != NULL || connection->feeding;
    if (!keep_open && !connection->closing) {
        connection->closing = true;
        connection_close_output(connection);
        deadline_stop(connection);
    }
    connection_check(connection);
    Py_DECREF(connection);
    return PyBool_FromLong(keep_open);
}

void
connection_leave_lists(Connection *connection)
{
    Factory *factory = connection->factory;
    deadline_stop(connection);
    list_remove(&connection->stall_timer);
    list_remove(&connection->idle_timer);
    if (list_empty(&connection->all))
        return;
    list_remove(&connection->all);
    factory->connection_count -= !connection->tunnelled;
    factory->turned_away_count -= connection->turned_away;
}

PyObject *
connection_lost(PyObject *self, PyObject *error)
{
    Connection *connection = (Connection *)self;
    Factory *factory = connection->factory;
    (void)error;
    if (connection->transport == NULL)
        Py_RETURN_NONE;
    connection->closing = true;
    if (connection->feeding) {
        connection->lost_pending = true; /* the parser's callbacks are on the stack */
        Py_RETURN_NONE;
    }
    Py_INCREF(connection);
    connection_leave_lists(connection);
    PyObject *transport = connection->transport;
    PyObject *parser = connection->parser;
    connection_close_output(connection);
    connection->queue_fd = -1;
    connection->transport = NULL;
    connection->parser = NULL;
    connection_gone(connection);
    Py_XDECREF(transport);
    Py_XDECREF(parser);
    connection_check(connection);
    if (factory->draining)
        factory_check_empty(factory);
    Py_DECREF(connection);
    Py_RETURN_NONE;
}
