/* Output of a connection: gathered while it is corked, then sent: straight to the socket, or by the transport. See output.h. */
#include "output.h"

#include "await.h"
#include "file.h"
#include "http2.h"

/* ---- how much the transport takes ---- */

PyObject *
output_pause_writing(PyObject *self, PyObject *unused)
{
    (void)unused;
    ((Connection *)self)->write_paused = true;
    Py_RETURN_NONE;
}

PyObject *
output_resume_writing(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    (void)unused;
    connection->write_paused = false;
    if (UNLIKELY(connection->close_when_taken)) {
        connection->close_when_taken = false;
        connection_call_transport(connection, connection->factory->state->names.close);
        Py_RETURN_NONE;
    }
    if (UNLIKELY(connection->file != NULL)) {
        Py_INCREF(connection);
        file_pump(connection);
        connection_check(connection);
        Py_DECREF(connection);
        Py_RETURN_NONE;
    }
    if (connection->http2 != NULL && connection->transport != NULL) {
        Py_INCREF(connection);
        http2_writable(connection);
        connection_check(connection);
        Py_DECREF(connection);
    }
    if (connection->unparsed != NULL)
        connection_schedule_resume(connection); /* it waits for its output to be gone */
    futures_wake(connection->factory->state, &connection->write_futures);
    Py_RETURN_NONE;
}

/* ---- gathered ---- */

void
output_cork(Connection *connection)
{
    connection->corked++;
}

void
output_uncork(Connection *connection)
{
    CHECK(connection->corked > 0);
    if (--connection->corked == 0)
        output_flush(connection);
}

bool
output_needs_transport(Connection *connection)
{
    const State *state = connection->factory->state;
    if (connection->fd < 0)
        return true;
    if (!connection->handed_off)
        return false;
    PyObject *transport = Py_NewRef(connection->transport);
    PyObject *size = call_method0(transport, state->names.get_write_buffer_size);
    Py_ssize_t waiting = size == NULL ? -1 : PyLong_AsSsize_t(size);
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(transport);
    Py_XDECREF(size);
    Py_DECREF(transport);
    connection->handed_off = waiting != 0;
    return connection->handed_off;
}

#define TLS_RECORD_BYTES 16384

static void
hand_to_transport(Connection *connection)
{
    const State *state = connection->factory->state;
    deadline_watch_output(connection);
    /* A TLS transport makes a record of each part, at least (RFC 8446 §5.1: of 16 KiB at most). */
    bool joined = connection->secure && connection->out.total <= TLS_RECORD_BYTES;
    PyObject *parts = joined ? writer_take_joined(&connection->out) : writer_take(&connection->out);
    PyObject *transport = Py_XNewRef(connection->transport);
    PyObject *result = NULL;
    connection->handed_off = true;
    if (parts != NULL && transport != NULL)
        result = call_method1(transport, joined ? state->names.write : state->names.writelines, parts);
    if (PyErr_Occurred()) {
        /* The output is lost: whatever came next would stand behind a hole. */
        PyErr_WriteUnraisable(transport);
        connection_abort(connection);
        connection_gone(connection);
    }
    Py_XDECREF(parts);
    Py_XDECREF(result);
    Py_XDECREF(transport);
}

static void
send_output(Connection *connection)
{
    bool by_transport = !connection->output_closed && output_needs_transport(connection);
    if (connection->output_closed) {
        writer_clear(&connection->out);
        return;
    }
    connection->sent_bytes += connection->out.total;
    switch (by_transport ? WRITER_PARTIAL : writer_send(&connection->out, connection->fd)) {
    case WRITER_SENT: break;
    case WRITER_PARTIAL: hand_to_transport(connection); break;
    case WRITER_BROKEN:
        connection_abort(connection);
        connection_gone(connection);
        break;
    }
}

/* A head whose first body message has not come stays back: the app may still fail, and get a 500. */
static void
send_before_open_head(Connection *connection)
{
    PyObject *head = writer_cut(&connection->out, connection->head_mark);
    if (head == NULL) {
        PyErr_WriteUnraisable((PyObject *)connection);
        connection_abort(connection);
        return;
    }
    send_output(connection);
    connection->head_mark = writer_mark(&connection->out);
    if (!connection->output_closed &&
        writer_copy(&connection->out, PyBytes_AS_STRING(head), (size_t)PyBytes_GET_SIZE(head)) < 0)
        PyErr_WriteUnraisable((PyObject *)connection);
    Py_DECREF(head);
}

void
output_flush(Connection *connection)
{
    if (connection->flushing)
        return; /* whoever flushes will see this output, too */
    connection->flushing = true;
    while (connection->out.block != NULL || (connection->http2 != NULL && http2_fill(connection))) {
        if (!connection->head_open) {
            send_output(connection);
            continue;
        }
        if (connection->head_mark.total > 0)
            send_before_open_head(connection);
        break;
    }
    connection->flushing = false;
    if (connection->http2 != NULL)
        http2_settle(connection);
    if (connection->close_after && !connection->closing && !connection->lingering)
        connection_close(connection);
}
