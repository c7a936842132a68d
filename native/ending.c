/* The ways a connection ends: dropped, closed, aborted, ended by the peer, lost. See connection.h. */
#include "connection.h"

#include "await.h"

/* How long a client that is still sending may take to read our last response. */
#define LINGER_MS 5000

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
    drop_cycle(cycle);
}

/* Drops the queue from *at on. */
void
connection_drop_queue(Connection *connection, Cycle **at, Cycle *new_tail)
{
    Cycle *cycle = *at;
    *at = NULL;
    connection->tail = new_tail;
    connection->receiving = NULL;
    while (cycle != NULL) {
        Cycle *next = cycle->next;
        cycle->next = NULL;
        drop_cycle(cycle);
        cycle = next;
    }
}

static void
drop_everything(Connection *connection)
{
    connection_drop_queue(connection, &connection->head, NULL);
    connection_drop_incoming(connection);
    Py_CLEAR(connection->unparsed);
    connection->head_open = false;
}

void
connection_gone(Connection *connection)
{
    connection->fd = -1;
    drop_everything(connection);
    writer_clear(&connection->out);
    futures_wake(connection->factory->state, &connection->write_futures);
}

void
connection_close(Connection *connection)
{
    const State *state = connection->factory->state;
    bool input_expected = connection->discarding && !connection->input_ended;
    drop_everything(connection);
    if (input_expected) {
        /* RFC 9112 §9.6: close the sending side first, or a reset may destroy the response unread. */
        connection->lingering = true;
        connection->deadline_ms = factory_now_ms() + LINGER_MS;
        list_append(&connection->factory->lingering, &connection->timer);
        connection_call_transport(connection, state->names.write_eof);
        connection->fd = -1;
        if (connection->reading_paused) {
            connection->reading_paused = false;
            connection_call_transport(connection, state->names.resume_reading);
        }
        return;
    }
    connection->closing = true;
    connection->fd = -1;
    list_remove(&connection->timer);
    connection_call_transport(connection, state->names.close);
}

void
connection_abort(Connection *connection)
{
    const State *state = connection->factory->state;
    connection->closing = true;
    connection->fd = -1;
    list_remove(&connection->timer);
    connection_call_transport(connection, state->names.abort);
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
    connection_drop_incoming(connection);
    if (connection->receiving != NULL) {
        /* RFC 9112 §8: an incomplete request; nobody can say what it was to be. */
        connection->keep = false;
        connection_abort(connection);
        connection_gone(connection);
    }
    Cycle *cycle = connection->head;
    Py_XINCREF(cycle);
    while (cycle != NULL) {
        cycle_input_closed(cycle);
        Cycle *next = (Cycle *)Py_XNewRef(cycle->next);
        Py_DECREF(cycle);
        cycle = next;
    }
    bool keep_open = connection->head != NULL || connection->unparsed != NULL;
    if (!keep_open && !connection->closing) {
        connection->closing = true;
        connection->fd = -1;
        list_remove(&connection->timer);
    }
    connection_check(connection);
    Py_DECREF(connection);
    return PyBool_FromLong(keep_open);
}

PyObject *
connection_lost(PyObject *self, PyObject *error)
{
    Connection *connection = (Connection *)self;
    Factory *factory = connection->factory;
    (void)error;
    if (connection->transport == NULL)
        Py_RETURN_NONE;
    Py_INCREF(connection);
    connection->closing = true;
    list_remove(&connection->timer);
    list_remove(&connection->all);
    factory->connection_count--;
    PyObject *transport = connection->transport;
    PyObject *parser = connection->parser;
    connection->fd = -1;
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
