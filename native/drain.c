/* How the requests and connections of a factory come to an end. See drain.h and shardserve/_native.pyi.
 *
 * In the order of a shutdown: drained, streams ended, aborted. What any of it calls may end others: each works on
 * a list that it made first.
 */
#include "drain.h"

#include "connection.h"
#include "cycle.h"
#include "http2.h"
#include "task.h"
#include "websocket.h"

/* At the start of a drain without grace: on a connection that is new, or has just been answered, a request may be
 * on its way. It gets so long to arrive. */
#define DRAIN_LATE_REQUEST_MS 500

PyObject *
factory_open_connections(Factory *factory)
{
    PyObject *list = PyList_New(0);
    for (Link *link = factory->connections.next; list != NULL && link != &factory->connections; link = link->next)
        if (PyList_Append(list, (PyObject *)LIST_OWNER(link, Connection, all)) < 0)
            Py_CLEAR(list);
    return list;
}

/* ---- drained ---- */

static PyObject *
factory_report_empty(PyObject *self, PyObject *unused)
{
    Factory *factory = (Factory *)self;
    PyObject *on_empty = factory->on_empty;
    (void)unused;
    factory->empty_scheduled = false;
    /* A connection accepted in this turn of the loop may have been made since. */
    if (on_empty == NULL || factory->connection_count > 0 || factory->in_flight_count > 0)
        Py_RETURN_NONE;
    factory->on_empty = NULL;
    PyObject *result = PyObject_CallNoArgs(on_empty);
    Py_DECREF(on_empty);
    return result;
}

/* Schedules a method of the factory, after `delay_s` or (0) on the loop's next turn. 0, or -1. */
static int
schedule(Factory *factory, PyMethodDef *method, double delay_s)
{
    const State *state = factory->state;
    PyObject *handle = NULL;
    PyObject *callback = PyCFunction_New(method, (PyObject *)factory);
    if (callback != NULL && delay_s > 0) {
        PyObject *delay = PyFloat_FromDouble(delay_s);
        handle = delay == NULL ? NULL : call_method2(factory->loop, state->names.call_later, delay, callback);
        Py_XDECREF(delay);
    }
    else if (callback != NULL) {
        handle = call_method1(factory->loop, state->names.call_soon, callback);
    }
    Py_XDECREF(callback);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

void
factory_check_empty(Factory *factory)
{
    static PyMethodDef report = {"_report_empty", factory_report_empty, METH_NOARGS, NULL};
    if (!factory->draining || factory->empty_scheduled || factory->connection_count > 0 || factory->in_flight_count > 0)
        return;
    factory->empty_scheduled = true;
    if (schedule(factory, &report, 0) < 0)
        PyErr_WriteUnraisable((PyObject *)factory);
}

/* Whether the client of an idle connection may have sent its next request already. */
static bool
is_expectant(const Factory *factory, const Connection *connection, int64_t now_ms)
{
    int64_t idle_since_ms = connection->deadline_ms - factory->limits.keep_alive_ms;
    return !connection->served_any || now_ms - idle_since_ms < DRAIN_LATE_REQUEST_MS;
}

/* Closes every connection that has nothing to do; `spare_expectant`: not those on which a request may be on its way.
 * 0, or -1. */
static int
close_idle(Factory *factory, bool spare_expectant)
{
    int64_t now_ms = factory_now_ms();
    PyObject *list = factory_open_connections(factory);
    if (list == NULL)
        return -1;
    factory->closing_idle = true;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        Connection *connection = (Connection *)PyList_GET_ITEM(list, i);
        if (connection->http2 != NULL && !connection->closing && !connection->lingering) {
            if (!spare_expectant)
                http2_finish(connection);
            continue;
        }
        if (connection->closing || connection->lingering || !connection_is_idle(connection))
            continue;
        if (!(spare_expectant && is_expectant(factory, connection, now_ms)))
            connection_close(connection);
    }
    Py_DECREF(list);
    return 0;
}

static PyObject *
factory_close_idle(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (close_idle((Factory *)self, false) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Who speaks HTTP/2 is told at once: its next request goes to another connection. 0, or -1. */
static int
say_goaway(Factory *factory)
{
    PyObject *list = factory_open_connections(factory);
    if (list == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        Connection *connection = (Connection *)PyList_GET_ITEM(list, i);
        if (connection->http2 != NULL)
            http2_drain(connection);
    }
    Py_DECREF(list);
    return 0;
}

PyObject *
factory_drain(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *const names[] = {"on_empty", "grace_ms", NULL};
    static PyMethodDef later = {"_close_idle", factory_close_idle, METH_NOARGS, NULL};
    Factory *factory = (Factory *)self;
    PyObject *on_empty;
    int grace_ms = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$i:drain", (char **)names, &on_empty, &grace_ms))
        return NULL;
    if (factory->draining) {
        PyErr_SetString(PyExc_RuntimeError, "already draining");
        return NULL;
    }
    factory->draining = true;
    factory->on_empty = Py_NewRef(on_empty);
    if (say_goaway(factory) < 0)
        return NULL;
    if (grace_ms <= 0) {
        if (close_idle(factory, true) < 0)
            return NULL;
        grace_ms = DRAIN_LATE_REQUEST_MS;
    }
    if (schedule(factory, &later, grace_ms / 1000.0) < 0)
        return NULL;
    factory_check_empty(factory);
    Py_RETURN_NONE;
}

/* ---- streams ended ---- */

PyObject *
factory_end_streams(PyObject *self, PyObject *unused)
{
    Factory *factory = (Factory *)self;
    Py_ssize_t told = 0;
    (void)unused;
    factory->ending_streams = true;
    PyObject *endless = PyList_New(0);
    if (endless == NULL)
        return NULL;
    for (Link *link = factory->cycles.next; link != &factory->cycles; link = link->next) {
        Cycle *cycle = LIST_OWNER(link, Cycle, in_flight);
        if (cycle_is_endless(cycle) && PyList_Append(endless, (PyObject *)cycle) < 0) {
            Py_DECREF(endless);
            return NULL;
        }
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(endless); i++)
        told += cycle_end_stream((Cycle *)PyList_GET_ITEM(endless, i));
    Py_DECREF(endless);
    PyObject *list = factory_open_connections(factory);
    if (list == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++)
        told += websocket_restart((Connection *)PyList_GET_ITEM(list, i));
    Py_DECREF(list);
    return PyLong_FromSsize_t(told);
}

/* ---- aborted ---- */

PyObject *
factory_abort(PyObject *self, PyObject *unused)
{
    Factory *factory = (Factory *)self;
    Py_ssize_t cut = factory->in_flight_count;
    (void)unused;
    factory->aborted = true;
    PyObject *parked = PyList_New(0);
    if (parked == NULL)
        return NULL;
    for (Link *link = factory->cycles.next; link != &factory->cycles; link = link->next) {
        Cycle *cycle = LIST_OWNER(link, Cycle, in_flight);
        if (cycle->parked != NULL && PyList_Append(parked, (PyObject *)cycle->parked) < 0) {
            Py_DECREF(parked);
            return NULL;
        }
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(parked); i++)
        task_cancel((Parked *)PyList_GET_ITEM(parked, i));
    Py_DECREF(parked);
    PyObject *list = factory_open_connections(factory);
    if (list == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        Connection *connection = (Connection *)PyList_GET_ITEM(list, i);
        connection_abort(connection);
        connection_gone(connection);
    }
    Py_DECREF(list);
    return PyLong_FromSsize_t(cut);
}
