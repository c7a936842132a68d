/* The way in: bytes -> parser -> current cycle -> app. See connection.h.
 *
 * Here bytes come from the transport, wait while the app or the client is not ready for what they bring, and requests
 * are given to the app. How they are parsed is feed.c.
 */
#define _GNU_SOURCE /* POLLRDHUP */
#include "connection.h"

#include "account.h"
#include "feed.h"
#include "forwarded.h"
#include "http2.h"
#include "head.h"
#include "output.h"
#include "scope.h"
#include "trace.h"
#include "websocket.h"

#include <poll.h>
#include <sys/socket.h>

/* How much of an unwanted request body is read to keep the connection. */
#define DISCARD_LIMIT_BYTES (1 << 20)

/* Requests of one connection that run before the loop's next turn: thousands fit into one read. */
#define REQUESTS_A_TURN 64

static void connection_run(Connection *connection);
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
    if (connection->factory->closing_idle && connection->unparsed == NULL && !connection->more_to_feed)
        connection->close_after = true; /* the grace of a drain is over */
    else
        deadline_start(connection, DEADLINE_IDLE);
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

/* Whether parsing must wait: for the app to take the body or to answer, or for the client to take the answers before it
 * gets more (it could fill the memory with them). */
static bool
must_hold(const Connection *connection)
{
    if (connection->receiving != NULL)
        return connection->receiving->body_bytes > CYCLE_BODY_HIGH_BYTES;
    return connection->current != NULL || (connection->write_paused && connection->input == INPUT_LINE);
}

static int64_t
unparsed_bytes(const Connection *connection)
{
    return connection->unparsed == NULL ? 0 : PyBytes_GET_SIZE(connection->unparsed) - connection->unparsed_at;
}

void
connection_adjust_reading(Connection *connection)
{
    const State *state = connection->factory->state;
    bool pause = connection->websocket != NULL ? websocket_pauses(connection)
                 : connection->http2 != NULL   ? http2_pauses(connection)
                     : unparsed_bytes(connection) > connection->factory->limits.pipelined ||
                           (connection->receiving != NULL && must_hold(connection));
    pause &= !connection->lingering;
    if (pause != connection->reading_paused && !connection->closing && !connection->input_ended) {
        connection->reading_paused = pause;
        connection_call_transport(connection, pause ? state->names.pause_reading : state->names.resume_reading);
    }
    if (connection->websocket == NULL && connection->http2 == NULL)
        deadline_after_input(connection);
    if (connection->tunnelled)
        tunnel_taken(connection, unparsed_bytes(connection));
}

void
connection_poll_paused(Connection *connection)
{
    /* Of a reset that comes together with bytes, a TLS transport hears on uvloop that there is something to read, once.
     * It reads the bytes. */
    bool busy = connection->current != NULL || (connection->http2 != NULL && http2_stream_count(connection) > 0);
    bool unsure = connection->secure && (busy || !connection->served_any);
    if (!(connection->reading_paused || unsure) || connection->output_closed || connection->queue_fd < 0)
        return;
    struct pollfd ask = {.fd = connection->queue_fd, .events = POLLRDHUP};
    if (poll(&ask, 1, 0) <= 0)
        return;
    Py_INCREF(connection);
    if (ask.revents & (POLLERR | POLLHUP)) {
        connection_abort(connection);
        connection_gone(connection);
    }
    else if (connection->reading_paused && connection->current != NULL && connection->websocket == NULL) {
        cycle_input_closed(connection->current);
    }
    Py_DECREF(connection);
}

bool
connection_has_unread(const Connection *connection)
{
    char byte;
    return !connection->output_closed && connection->queue_fd >= 0 &&
           recv(connection->queue_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

bool
connection_is_idle(const Connection *connection)
{
    if (connection->current != NULL || connection->incoming != NULL || connection->partial_line != NULL ||
        connection->unparsed != NULL || connection->discarding || connection->corked || connection->websocket != NULL ||
        connection->http2 != NULL)
        return false;
    return !connection_has_unread(connection);
}

/* ---- data_received ---- */

/* Whether the connection takes no more requests. */
static bool
is_finished(const Connection *connection)
{
    return connection->closing || connection->lingering || connection->transport == NULL ||
           connection->close_after ||
           (connection->current != NULL && !connection->current->keep_alive && connection->receiving == NULL &&
            connection->current->websocket == NULL);
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

void
connection_hold_back(Connection *connection, PyObject *data, Py_ssize_t at)
{
    CHECK(connection->unparsed == NULL || connection->unparsed_at == 0);
    set_unparsed(connection, data, at, connection->unparsed);
}

void
connection_hold_later(Connection *connection, PyObject *data)
{
    if (connection->unparsed == NULL)
        set_unparsed(connection, data, 0, NULL);
    else
        set_unparsed(connection, connection->unparsed, connection->unparsed_at, data);
}

/* The handshake was accepted meanwhile: what is behind it is frames. */
static void
keep_frames(Connection *connection, PyObject *data, Py_ssize_t at)
{
    if (at < PyBytes_GET_SIZE(data))
        connection_hold_back(connection, data, at);
    if (connection->unparsed != NULL)
        connection_schedule_resume(connection);
}

/* Parses `data` (bytes) from `at` on and runs what it brings, holding back what the app is not ready for. */
static void
connection_feed(Connection *connection, PyObject *data, Py_ssize_t at)
{
    const char *text = PyBytes_AS_STRING(data);
    const char *end = text + PyBytes_GET_SIZE(data);
    int64_t begun = connection->request_count;
    text += at;
    while (text < end && !is_finished(connection) && connection->websocket == NULL) {
        bool turn_over = connection->request_count - begun >= REQUESTS_A_TURN && connection->input == INPUT_LINE;
        if (must_hold(connection) || turn_over) {
            connection_hold_back(connection, data, text - PyBytes_AS_STRING(data));
            if (turn_over)
                connection_schedule_resume(connection);
            break;
        }
        bool was_body = connection->input == INPUT_BODY;
        Py_ssize_t taken = feed_part(connection, data, text, end);
        if (taken < 0)
            break;
        text += taken;
        connection->more_to_feed = text < end;
        if (connection->more_to_feed && connection->input == INPUT_BODY && !was_body)
            continue; /* what is here of the body comes with the request: the app need not wait for it */
        connection_run(connection);
        connection->more_to_feed = false;
        if (connection->discarding && (connection->discard_left -= taken) < 0) {
            connection->close_after = true; /* too much of a body that nobody reads */
            connection->keep = false;
        }
    }
    if (UNLIKELY(connection->websocket != NULL && !connection->closing))
        keep_frames(connection, data, text - PyBytes_AS_STRING(data));
    if (UNLIKELY(connection->partial_line != NULL && connection->unparsed != NULL)) {
        /* An app called data_received(): what it brought goes on with the line. */
        PyObject *partial = connection->partial_line;
        connection->partial_line = NULL;
        connection_hold_back(connection, partial, 0);
        Py_DECREF(partial);
    }
    connection_adjust_reading(connection);
}

/* `data` behind the partial line, if there is one. New reference; NULL with MemoryError. */
static PyObject *
with_partial_line(Connection *connection, PyObject *data)
{
    PyObject *partial = connection->partial_line;
    connection->partial_line = NULL;
    if (LIKELY(partial == NULL))
        return Py_NewRef(data);
    PyBytes_Concat(&partial, data);
    return partial;
}

/* A plain connection whose first bytes are the preface speaks HTTP/2 (RFC 9113 §3.3). Whether these are taken care of. May run
 * Python. */
static bool
take_preface(Connection *connection, PyObject *whole)
{
    int begins = http2_begins(whole);
    if (begins < 0)
        return false;
    if (begins == 0) {
        Py_XSETREF(connection->partial_line, Py_NewRef(whole));
        deadline_after_input(connection);
        return true;
    }
    if (http2_begin(connection))
        http2_data_received(connection, whole);
    return true;
}

/* Whether the preface may still come. */
static bool
may_be_http2(const Connection *connection)
{
    return connection->factory->http2_cleartext && !connection->secure && !connection->tunnelled &&
           connection->request_count == 0 && connection->input == INPUT_LINE && connection->current == NULL &&
           !connection->served_any;
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
    if (connection->websocket == NULL && connection->last_batch && connection->receiving == NULL)
        Py_RETURN_NONE;
    Py_INCREF(connection);
    if (connection->websocket != NULL) {
        websocket_data_received(connection, data);
    }
    else if (connection->http2 != NULL) {
        http2_data_received(connection, data);
    }
    else if (connection->unparsed != NULL || connection->running || connection->feeding) {
        connection_hold_later(connection, data);
        if (connection->running || connection->feeding)
            connection_schedule_resume(connection);
        connection_adjust_reading(connection);
    }
    else {
        PyObject *whole = with_partial_line(connection, data);
        if (whole == NULL) {
            Py_DECREF(connection);
            return NULL;
        }
        if (LIKELY(!may_be_http2(connection)) || !take_preface(connection, whole)) {
            output_cork(connection);
            connection_feed(connection, whole, 0);
            output_uncork(connection);
        }
        Py_DECREF(whole);
    }
    connection_check(connection);
    Py_DECREF(connection);
    Py_RETURN_NONE;
}

/* ---- the app ---- */

/* The app that serves the target's path instead of the factory's; NULL: none does. Borrowed. */
static PyObject *
static_app(const Cycle *cycle)
{
    PyObject *routes = cycle->factory->static_routes;
    Py_ssize_t length;
    const char *path = scope_target(cycle->target, &length);
    const char *mark = memchr(path, '?', (size_t)length);
    if (mark != NULL)
        length = mark - path;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(routes); i++) {
        PyObject *route = PyTuple_GET_ITEM(routes, i);
        PyObject *prefix = PyTuple_GET_ITEM(route, 0);
        Py_ssize_t size = PyBytes_GET_SIZE(prefix);
        if (length >= size && memcmp(path, PyBytes_AS_STRING(prefix), (size_t)size) == 0 &&
            (length == size || path[size] == '/'))
            return PyTuple_GET_ITEM(route, 1);
    }
    return NULL;
}

PyObject *
intake_scope(Connection *connection, Cycle *cycle, bool forwarded)
{
    PyObject *scope = trace_begin(cycle) < 0 ? NULL : scope_build(cycle, connection->scope_base);
    if (scope == NULL)
        PyErr_WriteUnraisable((PyObject *)connection); /* out of memory */
    else if (UNLIKELY(forwarded) && forwarded_apply(connection, cycle, scope) < 0)
        Py_CLEAR(scope);
    return scope;
}

void
intake_start(Cycle *cycle, PyObject *scope)
{
    if (UNLIKELY(cycle->factory->static_routes != NULL))
        cycle->app = static_app(cycle);
    cycle_start(cycle, scope);
}

/* The scope of the current request; NULL: it is answered or gone. May run Python. */
static PyObject *
request_scope(Connection *connection, Cycle *cycle)
{
    PyObject *scope = intake_scope(connection, cycle, connection->forwarded);
    if (UNLIKELY(connection->current != cycle))
        Py_CLEAR(scope); /* the client went meanwhile */
    else if (scope == NULL)
        connection_reject(connection, 500, head_reason(500));
    return scope;
}

/* Gives the app a request that has just come. May run Python. */
static void
connection_run(Connection *connection)
{
    const Factory *factory = connection->factory;
    Cycle *cycle = connection->current;
    if (connection->running || cycle == NULL || cycle->started || connection->closing || connection->close_after ||
        connection->transport == NULL)
        return;
    connection->running = true;
    Py_INCREF(cycle);
    if (UNLIKELY(factory->in_flight_count >= factory->limits.concurrency)) {
        connection_refuse_overload(connection);
    }
    else if (UNLIKELY(websocket_is_wanted(connection, cycle))) {
        websocket_run(connection, cycle);
    }
    else {
        PyObject *scope = request_scope(connection, cycle);
        if (scope != NULL)
            intake_start(cycle, scope);
    }
    cycle_release(cycle);
    connection->running = false;
    connection_check(connection);
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
    if (connection->websocket != NULL || connection->http2 != NULL) {
        if (connection->http2 != NULL)
            http2_resume(connection);
        else
            websocket_resume(connection);
        connection_check(connection);
        Py_DECREF(connection);
        Py_RETURN_NONE;
    }
    output_cork(connection);
    PyObject *data = connection->unparsed;
    if (data != NULL && !must_hold(connection)) {
        Py_ssize_t at = connection->unparsed_at;
        connection->unparsed = NULL;
        connection->unparsed_at = 0;
        connection_feed(connection, data, at);
        Py_DECREF(data);
    }
    if (connection->last_batch && connection->current == NULL && connection->unparsed == NULL)
        connection->close_after = true; /* it ended with a part of a request */
    if (connection->input_ended && connection->unparsed == NULL && !connection->closing) {
        connection_input_over(connection);
        if (connection->current == NULL)
            connection->close_after = true;
    }
    else if (connection->input_ended && connection->current != NULL && connection->receiving == NULL &&
             !connection->closing) {
        cycle_input_closed(connection->current); /* it came behind others: nobody has told it yet */
    }
    output_uncork(connection);
    connection_adjust_reading(connection);
    connection_check(connection);
    Py_DECREF(connection);
    Py_RETURN_NONE;
}

void
connection_response_done(Connection *connection, Cycle *cycle)
{
    CHECK(connection->current == cycle);
    connection->current = NULL;
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
    account_response(connection, cycle);
    cycle_release(cycle); /* the connection's */
    if (connection->close_after)
        return;
    if (connection->current == NULL && connection->incoming == NULL && !connection->discarding)
        connection_now_idle(connection);
    if (!connection->running &&
        (connection->unparsed != NULL || connection->input_ended || connection->reading_paused))
        connection_schedule_resume(connection);
}
