/* The way in: bytes -> httptools -> queue of cycles -> app. See connection.h.
 *
 * httptools decides what is a request; what it cannot know is checked in request.c, whose callbacks only
 * record: the app never runs below feed_data. Parsing goes one slice ahead of the app and then waits for it.
 */
#define _GNU_SOURCE /* POLLRDHUP */
#include "connection.h"

#include "head.h"
#include "request.h"
#include "scope.h"

#include <poll.h>
#include <sys/socket.h>

/* Bytes parsed at a time: what one connection can have parsed ahead of its running request. */
#define SLICE_BYTES 16384
/* A head that is still incomplete after this many bytes is refused (431). request.c counts exactly, but sees
 * a field only when it is complete. */
#define HEAD_READ_BYTES 65600
/* Read behind a request that is not done: up to this much, so that the end of the connection is still heard. */
#define UNPARSED_LIMIT_BYTES 65536
/* Chunk framing beyond 16 times the body it brings is bounded by this. */
#define OVERHEAD_LIMIT_BYTES 65536
/* How much of an unwanted request body is read to keep the connection. */
#define DISCARD_LIMIT_BYTES (1 << 20)

static PyObject *connection_resume(PyObject *self, PyObject *unused);

/* ---- small things ---- */

void
connection_call_transport(Connection *connection, PyObject *name)
{
    if (connection->transport == NULL)
        return;
    PyObject *transport = Py_NewRef(connection->transport);
    PyObject *result = call_method0(transport, name);
    if (result == NULL)
        PyErr_WriteUnraisable(transport);
    Py_XDECREF(result);
    Py_DECREF(transport);
}

void
connection_now_idle(Connection *connection)
{
    if (connection->factory->closing_idle && connection->unparsed == NULL)
        connection->close_after = true; /* the grace of a drain is over */
    else
        connection_start_idle_timer(connection);
}

void
connection_start_idle_timer(Connection *connection)
{
    Factory *factory = connection->factory;
    connection->deadline_ms = factory_now_ms() + factory->keep_alive_ms;
    list_append(&factory->idle, &connection->timer);
}

void
connection_schedule_resume(Connection *connection)
{
    const State *state = connection->factory->state;
    if (connection->resume_scheduled || connection->transport == NULL)
        return;
    static PyMethodDef resume = {"_resume", connection_resume, METH_NOARGS, NULL};
    PyObject *callback = PyCFunction_New(&resume, (PyObject *)connection);
    PyObject *handle = callback == NULL ? NULL : call_method1(connection->factory->loop, state->names.call_soon, callback);
    if (handle == NULL)
        PyErr_WriteUnraisable((PyObject *)connection);
    else
        connection->resume_scheduled = true;
    Py_XDECREF(callback);
    Py_XDECREF(handle);
}

/* Whether parsing must wait for the app. */
static bool
must_hold(const Connection *connection)
{
    if (connection->receiving != NULL)
        return connection->receiving->body_bytes > CYCLE_BODY_HIGH_BYTES;
    return connection->head != NULL;
}

static size_t
unparsed_bytes(const Connection *connection)
{
    return connection->unparsed == NULL
               ? 0
               : (size_t)(PyBytes_GET_SIZE(connection->unparsed) - connection->unparsed_at);
}

void
connection_adjust_reading(Connection *connection)
{
    const State *state = connection->factory->state;
    bool pause = (unparsed_bytes(connection) > UNPARSED_LIMIT_BYTES ||
                  (connection->receiving != NULL && must_hold(connection))) &&
                 !connection->lingering;
    if (pause == connection->reading_paused || connection->closing || connection->input_ended)
        return;
    connection->reading_paused = pause;
    connection_call_transport(connection, pause ? state->names.pause_reading : state->names.resume_reading);
}

void
connection_poll_paused(Connection *connection)
{
    if (!connection->reading_paused || connection->fd < 0)
        return;
    struct pollfd ask = {.fd = connection->fd, .events = POLLRDHUP};
    if (poll(&ask, 1, 0) <= 0)
        return;
    Py_INCREF(connection);
    if (ask.revents & (POLLERR | POLLHUP)) {
        connection_abort(connection);
        connection_gone(connection);
    }
    else if (connection->head != NULL) {
        cycle_input_closed(connection->head);
    }
    Py_DECREF(connection);
}

bool
connection_is_idle(const Connection *connection)
{
    if (connection->head != NULL || connection->incoming != NULL || connection->unparsed != NULL ||
        connection->discarding)
        return false;
    /* A request may already be in the socket. */
    char byte;
    return connection->fd < 0 || recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}

/* ---- data_received ---- */

/* feed_data stopped. Returns how many bytes of the slice were parsed, or -1: nothing more will be. */
static Py_ssize_t
parser_stopped(Connection *connection)
{
    const State *state = connection->factory->state;
    PyObject *error = error_take();
    Py_ssize_t parsed = -1;
    if (PyErr_GivenExceptionMatches(error, state->HttpParserUpgrade)) {
        /* We did not ask to upgrade (RFC 9110 §7.8 lets a server ignore it): HTTP goes on behind it. */
        PyObject *args = PyObject_GetAttrString(error, "args");
        if (args != NULL && PyTuple_Check(args) && PyTuple_GET_SIZE(args) == 1)
            parsed = PyLong_AsSsize_t(PyTuple_GET_ITEM(args, 0));
        Py_XDECREF(args);
        PyObject *ignored = PyErr_Occurred() ? NULL : request_upgrade_ignored((PyObject *)connection);
        if (ignored == NULL) {
            PyErr_WriteUnraisable((PyObject *)connection);
            parsed = -1;
        }
        Py_XDECREF(ignored);
    }
    Py_DECREF(error);
    if (parsed < 0 && !(connection->tail != NULL && !connection->tail->keep_alive && connection->receiving == NULL)) {
        /* Bytes behind a request that says "close" are never looked at (RFC 9112 §9.6); others are wrong. */
        if (connection->reject_status == 0)
            connection_reject(connection, 400, head_reason(400));
        else
            connection_reject(connection, connection->reject_status, connection->reject_reason);
    }
    return parsed;
}

/* After a slice: whether the peer stays within what a request may take before it comes to the point. */
static bool
within_limits(Connection *connection, Py_ssize_t length)
{
    if (connection->incoming != NULL) {
        if (connection->begun_in_slice <= 1)
            connection->head_bytes += (size_t)length; /* else it began somewhere inside */
        if (connection->head_bytes <= HEAD_READ_BYTES)
            return true;
        connection_reject(connection, 431, head_reason(431));
        return false;
    }
    /* Bytes of chunk framing count, body bytes were taken off sixteenfold: one-byte chunks pass, an endless chunk
     * extension or trailer does not, however much body came before. */
    connection->body_overhead += length;
    if ((connection->receiving == NULL && !connection->discarding) || connection->body_overhead < 0)
        connection->body_overhead = 0;
    if (connection->body_overhead <= OVERHEAD_LIMIT_BYTES)
        return true;
    connection_reject(connection, 400, head_reason(400));
    return false;
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

/* Parses one slice. Returns how many bytes were taken, or -1: nothing more will be. */
static Py_ssize_t
feed_slice(Connection *connection, PyObject *data, const char *text, Py_ssize_t length)
{
    const State *state = connection->factory->state;
    bool between = connection->incoming == NULL && connection->receiving == NULL && !connection->discarding;
    connection->line_at = between ? text : NULL;
    connection->line_used = !between;
    connection->begun_in_slice = between ? 0 : 1;
    connection->feed_end = text + length;
    connection->feeding = true;
    PyObject *slice = length == PyBytes_GET_SIZE(data) ? Py_NewRef(data)
                                                       : PyMemoryView_FromMemory((char *)text, length, PyBUF_READ);
    PyObject *result = NULL;
    if (slice != NULL) {
        PyObject *args[2] = {connection->parser, slice};
        result = PyObject_Vectorcall(state->parser_feed, args, 2, NULL);
    }
    Py_XDECREF(slice);
    connection->feeding = false;
    connection->feed_end = NULL;
    connection->line_at = NULL;
    if (UNLIKELY(connection->lost_pending || connection->gone_pending)) {
        Py_XDECREF(result);
        PyErr_Clear();
        end_after_feeding(connection);
        return -1;
    }
    if (result == NULL)
        return parser_stopped(connection);
    Py_DECREF(result);
    return within_limits(connection, length) ? length : -1;
}

static void connection_run(Connection *connection);

/* Whether the connection takes no more requests. */
static bool
is_finished(const Connection *connection)
{
    return connection->closing || connection->lingering || connection->transport == NULL ||
           connection->close_after || connection->reject_status != 0 ||
           (connection->tail != NULL && !connection->tail->keep_alive && connection->receiving == NULL);
}

/* How much to parse next: a body of known length in one piece, else little enough to stay close to the app. */
static Py_ssize_t
slice_length(const Connection *connection, Py_ssize_t available)
{
    Py_ssize_t length = SLICE_BYTES;
    if (connection->receiving != NULL && connection->content_length - connection->body_received > length)
        length = (Py_ssize_t)(connection->content_length - connection->body_received);
    return length < available ? length : available;
}

/* Keeps `first` from `at` on, then `second`, for later. Either may be NULL. An error ends the connection. */
static void
set_unparsed(Connection *connection, PyObject *first, Py_ssize_t at, PyObject *second)
{
    PyObject *rest;
    if (second == NULL || PyBytes_GET_SIZE(second) == 0) {
        rest = Py_NewRef(first);
    }
    else {
        rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(first) + at, PyBytes_GET_SIZE(first) - at);
        if (rest != NULL)
            PyBytes_Concat(&rest, second);
        at = 0;
    }
    if (rest == NULL) {
        PyErr_WriteUnraisable((PyObject *)connection);
        connection_abort(connection);
        return;
    }
    Py_XSETREF(connection->unparsed, rest);
    connection->unparsed_at = at;
}

/* The rest of `data`, in front of what came meanwhile (an app can call data_received). */
static void
hold_back(Connection *connection, PyObject *data, Py_ssize_t at)
{
    CHECK(connection->unparsed == NULL || connection->unparsed_at == 0);
    set_unparsed(connection, data, at, connection->unparsed);
}

/* `data` behind what is held back already. */
static void
hold_later(Connection *connection, PyObject *data)
{
    if (connection->unparsed == NULL)
        set_unparsed(connection, data, 0, NULL);
    else
        set_unparsed(connection, connection->unparsed, connection->unparsed_at, data);
}

/* Parses `data` (bytes) from `at` on and runs what it brings, holding back what the app is not ready for. */
static void
connection_feed(Connection *connection, PyObject *data, Py_ssize_t at)
{
    const char *text = PyBytes_AS_STRING(data);
    Py_ssize_t end = PyBytes_GET_SIZE(data);
    while (at < end && !is_finished(connection)) {
        if (must_hold(connection)) {
            hold_back(connection, data, at);
            break;
        }
        Py_ssize_t slice = slice_length(connection, end - at);
        slice = feed_slice(connection, data, text + at, slice);
        connection->more_to_feed = slice >= 0 && at + slice < end;
        connection_run(connection);
        connection->more_to_feed = false;
        if (slice < 0)
            break;
        at += slice;
        if (connection->discarding && (connection->discard_left -= slice) < 0) {
            connection->close_after = true; /* too much of a body that nobody reads */
            connection->keep = false;
        }
    }
    connection_adjust_reading(connection);
}

PyObject *
connection_data_received(PyObject *self, PyObject *data)
{
    Connection *connection = (Connection *)self;
    if (!PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "data_received() takes bytes");
        return NULL;
    }
    if (connection->lingering || connection->closing || connection->transport == NULL)
        Py_RETURN_NONE;
    if (connection->last_batch && connection->receiving == NULL)
        Py_RETURN_NONE;
    Py_INCREF(connection);
    if (connection->unparsed != NULL || connection->running || connection->feeding) {
        hold_later(connection, data);
        if (connection->running || connection->feeding)
            connection_schedule_resume(connection);
        connection_adjust_reading(connection);
    }
    else {
        http1_cork(connection);
        connection_feed(connection, data, 0);
        http1_uncork(connection);
    }
    connection_check(connection);
    Py_DECREF(connection);
    Py_RETURN_NONE;
}

/* ---- the queue ---- */

/* Gives the app every request whose turn it is. May run Python. */
static void
connection_run(Connection *connection)
{
    const Factory *factory = connection->factory;
    if (connection->running)
        return;
    connection->running = true;
    while (connection->head != NULL && !connection->head->started && !connection->closing &&
           !connection->close_after && connection->transport != NULL) {
        if (UNLIKELY(factory->in_flight_count >= factory->in_flight_limit)) {
            if (!connection_refuse_overload(connection))
                break;
            continue;
        }
        Cycle *cycle = (Cycle *)Py_NewRef(connection->head);
        PyObject *scope = scope_build(cycle, connection->scope_base);
        if (scope != NULL) {
            cycle_start(cycle, scope);
        }
        else {
            /* httptools let the target pass, its URL parser does not. */
            PyErr_Clear();
            connection->receiving = cycle;
            connection_reject(connection, 400, head_reason(400));
        }
        cycle_release(cycle);
        connection_check(connection);
    }
    connection->running = false;
    if (connection->head == NULL && connection->reject_status != 0 && !connection->closing)
        connection_write_rejection(connection);
}

/* From the loop: what waited for a suspended request. */
static PyObject *
connection_resume(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    (void)unused;
    connection->resume_scheduled = false;
    if (connection->transport == NULL || connection->closing)
        Py_RETURN_NONE;
    Py_INCREF(connection);
    http1_cork(connection);
    connection_run(connection);
    PyObject *data = connection->unparsed;
    if (data != NULL && !must_hold(connection)) {
        Py_ssize_t at = connection->unparsed_at;
        connection->unparsed = NULL;
        connection->unparsed_at = 0;
        connection_feed(connection, data, at);
        Py_DECREF(data);
    }
    if (connection->last_batch && connection->head == NULL && connection->unparsed == NULL)
        connection->close_after = true; /* it ended with a part of a request */
    if (connection->input_ended && connection->unparsed == NULL && !connection->closing) {
        connection_input_over(connection);
        if (connection->head == NULL)
            connection->close_after = true;
    }
    http1_uncork(connection);
    connection_adjust_reading(connection);
    connection_check(connection);
    Py_DECREF(connection);
    Py_RETURN_NONE;
}

static void
log_access(Connection *connection, Cycle *cycle)
{
    Factory *factory = connection->factory;
    const State *state = factory->state;
    PyObject *status = PyLong_FromLong(cycle->status);
    PyObject *result = NULL;
    if (status != NULL) {
        PyObject *args[6] = {NULL, cycle->client, cycle->method, cycle->target,
                             cycle->version_10 ? state->names.version_10 : state->names.version_11, status};
        result = PyObject_Vectorcall(factory->access, args + 1, 5 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    if (result == NULL)
        PyErr_WriteUnraisable(factory->access);
    Py_XDECREF(status);
    Py_XDECREF(result);
}

void
connection_response_done(Connection *connection, Cycle *cycle)
{
    CHECK(connection->head == cycle);
    connection->head = cycle->next;
    cycle->next = NULL;
    if (connection->tail == cycle)
        connection->tail = NULL;
    connection->head_open = false;
    connection->framing = FRAMING_NONE;
    connection->served_any = true;
    if (connection->receiving == cycle) {
        connection->receiving = NULL;
        connection->discarding = true;
        connection->discard_left = DISCARD_LIMIT_BYTES;
    }
    if (!connection->keep)
        connection->close_after = true;
    Py_CLEAR(cycle->stream);
    if (connection->factory->access != NULL && cycle->status != 0)
        log_access(connection, cycle);
    cycle_release(cycle); /* the queue's */
    if (connection->close_after)
        return;
    if (connection->head == NULL && connection->incoming == NULL && !connection->discarding)
        connection_now_idle(connection);
    if (!connection->running &&
        (connection->head != NULL || connection->unparsed != NULL || connection->reject_status != 0 ||
         connection->input_ended || connection->reading_paused))
        connection_schedule_resume(connection);
}
