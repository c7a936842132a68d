/* Deadlines. See deadline.h. Whatever a connection's end calls may end others: the lists are copied first. */
#include "deadline.h"

#include "connection.h"
#include "http2.h"
#include "output.h"
#include "websocket.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

/* How long a client that is still sending may take to read our last response. */
#define LINGER_MS 5000
/* Stalled output is looked at so many times within its limit. */
#define STALL_LOOKS 4

/* 0: never. */
static int64_t
length_ms(const Limits *limits, Deadline kind)
{
    switch (kind) {
    case DEADLINE_FIRST_BYTE: return limits->first_byte_ms;
    case DEADLINE_IDLE: return limits->keep_alive_ms > 0 ? limits->keep_alive_ms : 1;
    case DEADLINE_HEAD: return limits->head_ms;
    case DEADLINE_BODY: return limits->body_min_rate > 0 ? limits->body_window_ms : 0;
    case DEADLINE_LINGER: return LINGER_MS;
    case DEADLINE_WS_PING: return limits->ws_ping_interval_ms;
    case DEADLINE_WS_PONG: return limits->ws_ping_timeout_ms;
    case DEADLINE_WS_CLOSE: return limits->ws_close_ms;
    case DEADLINE_NONE:
    case DEADLINE_KINDS: break;
    }
    return 0;
}

/* ---- started ---- */

void
deadline_start(Connection *connection, Deadline kind)
{
    Factory *factory = connection->factory;
    int64_t delay_ms = length_ms(&factory->limits, kind);
    connection->deadline = (uint8_t)kind;
    connection->reprieved = false;
    connection->window_begin = connection->body_received;
    if (delay_ms == 0) {
        list_remove(&connection->timer);
        return;
    }
    connection->deadline_ms = factory_now_ms() + delay_ms;
    list_append(&factory->deadlines[kind], &connection->timer);
}

void
deadline_stop(Connection *connection)
{
    connection->deadline = DEADLINE_NONE;
    list_remove(&connection->timer);
}

/* Whether the client may still wait for "100 Continue" before it sends its body. */
static bool
is_waiting_for_continue(const Connection *connection)
{
    return connection->receiving != NULL && connection->receiving->expects_continue && connection->body_received == 0;
}

/* Whether a request has begun. A CR alone may be half of an empty line before it. */
static bool
is_in_head(const Connection *connection)
{
    return connection->input == INPUT_HEAD ||
           (connection->partial_line != NULL && PyBytes_AS_STRING(connection->partial_line)[0] != '\r');
}

void
deadline_after_input(Connection *connection)
{
    Deadline owed = DEADLINE_NONE;
    if (connection->closing || connection->lingering || connection->transport == NULL)
        return;
    if (is_in_head(connection))
        owed = DEADLINE_HEAD;
    else if (connection->input == INPUT_BODY && !connection->reading_paused && !is_waiting_for_continue(connection))
        owed = DEADLINE_BODY;
    else if (connection->deadline == DEADLINE_FIRST_BYTE || connection->deadline == DEADLINE_IDLE)
        return; /* nothing but blank lines came */
    if (owed != connection->deadline)
        deadline_start(connection, owed);
}

/* Bytes that the kernel has and the client has not. */
static int64_t
queued_bytes(const Connection *connection)
{
    int queued = 0;
    if (connection->queue_fd < 0 || ioctl(connection->queue_fd, SIOCOUTQ, &queued) < 0)
        return 0;
    return queued;
}

void
deadline_watch_output(Connection *connection)
{
    Factory *factory = connection->factory;
    if (factory->limits.write_stall_ms == 0 || !list_empty(&connection->stall_timer))
        return;
    connection->taken_bytes = (int64_t)(connection->sent_bytes - connection->out.total) - queued_bytes(connection);
    connection->taken_ms = factory_now_ms();
    connection->stall_look_ms = connection->taken_ms + factory->limits.write_stall_ms / STALL_LOOKS;
    list_append(&factory->stalls, &connection->stall_timer);
}

void
deadline_look_again(Connection *connection, int64_t now_ms)
{
    Factory *factory = connection->factory;
    connection->idle_look_ms = now_ms + (factory->limits.ws_idle_ms + IDLE_LOOKS - 1) / IDLE_LOOKS;
    list_append(&factory->idles, &connection->idle_timer);
}

void
deadline_watch_idle(Connection *connection)
{
    if (connection->factory->limits.ws_idle_ms > 0)
        deadline_look_again(connection, factory_now_ms());
}

/* ---- over ---- */

/* A rejection from outside of data_received. May run Python. */
static void
reject_late(Connection *connection, const char *reason)
{
    output_cork(connection);
    connection_reject(connection, 408, reason);
    output_uncork(connection);
}

static void
end_body_window(Connection *connection)
{
    const Limits *limits = &connection->factory->limits;
    int64_t came = connection->body_received - connection->window_begin;
    if (came >= limits->body_min_rate * limits->body_window_ms / 1000)
        deadline_start(connection, DEADLINE_BODY);
    else
        reject_late(connection, "the request body came more slowly than min-request-body-rate");
}

int64_t
deadline_held_bytes(const Connection *connection)
{
    const State *state = connection->factory->state;
    PyObject *transport = Py_XNewRef(connection->transport);
    PyObject *size = transport == NULL ? NULL : call_method0(transport, state->names.get_write_buffer_size);
    int64_t held = size == NULL ? -1 : PyLong_AsLongLong(size);
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(transport);
    Py_XDECREF(size);
    Py_XDECREF(transport);
    return held;
}

/* A connection that is idle, or lingers: its response may still be on its way. May run Python. */
static void
end_rest(Connection *connection, Deadline kind)
{
    bool answering = connection->handed_off && deadline_held_bytes(connection) > 0;
    if (connection->deadline != kind)
        return;
    if (answering || connection->unparsed != NULL)
        deadline_start(connection, kind);
    else if (kind == DEADLINE_LINGER)
        connection_abort(connection);
    else
        connection_close(connection);
}

/* The time of a connection is over. May run Python. */
static void
end_waiting(Connection *connection)
{
    Deadline kind = (Deadline)connection->deadline;
    if (!connection->reprieved && connection_has_unread(connection)) {
        connection->reprieved = true; /* it keeps its place: the next tick comes back to it */
        return;
    }
    if (connection->http2 != NULL && kind != DEADLINE_LINGER) {
        http2_end_waiting(connection);
        return;
    }
    switch (kind) {
    case DEADLINE_HEAD:
        reject_late(connection, "the request head was not complete within timeout-request-head");
        break;
    case DEADLINE_BODY: end_body_window(connection); break;
    case DEADLINE_WS_PING:
    case DEADLINE_WS_PONG:
    case DEADLINE_WS_CLOSE: websocket_deadline(connection); break;
    default: end_rest(connection, kind); break;
    }
}

/* Whether the client has taken none of the output for too long. May run Python. */
static bool
is_stalled(Connection *connection, int64_t now_ms)
{
    int64_t limit_ms = connection->factory->limits.write_stall_ms;
    int64_t waiting = deadline_held_bytes(connection);
    int64_t taken = (int64_t)connection->sent_bytes - waiting - queued_bytes(connection);
    if (waiting < 0 || taken > connection->taken_bytes) {
        connection->taken_bytes = taken;
        connection->taken_ms = now_ms;
    }
    if (waiting == 0 || connection->transport == NULL) {
        list_remove(&connection->stall_timer);
        return false;
    }
    connection->stall_look_ms = now_ms + limit_ms / STALL_LOOKS;
    list_append(&connection->factory->stalls, &connection->stall_timer);
    return now_ms - connection->taken_ms >= limit_ms;
}

/* The connections of a list that are due. New list, or NULL. Runs no Python. */
static int
collect(PyObject *due, Link *list, size_t link_at, size_t time_at, int64_t now_ms)
{
    for (Link *link = list->next; link != list; link = link->next) {
        char *connection = (char *)link - link_at;
        if (*(int64_t *)(connection + time_at) > now_ms)
            break;
        if (PyList_Append(due, (PyObject *)connection) < 0)
            return -1;
    }
    return 0;
}

static int
enforce_stalls(Factory *factory, int64_t now_ms)
{
    PyObject *due = PyList_New(0);
    if (due == NULL || collect(due, &factory->stalls, offsetof(Connection, stall_timer),
                               offsetof(Connection, stall_look_ms), now_ms) < 0) {
        Py_XDECREF(due);
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(due); i++) {
        Connection *connection = (Connection *)PyList_GET_ITEM(due, i);
        if (list_empty(&connection->stall_timer) || !is_stalled(connection, now_ms))
            continue;
        if (!connection->rejected)
            connection_report(connection, REPORT_CLOSED, "it took none of its response within timeout-write-stall");
        http1_reset(connection); /* or the kernel keeps megabytes for who does not take them */
        connection_gone(connection);
    }
    Py_DECREF(due);
    return 0;
}

static int
enforce_idles(Factory *factory, int64_t now_ms)
{
    PyObject *due = PyList_New(0);
    if (due == NULL || collect(due, &factory->idles, offsetof(Connection, idle_timer), offsetof(Connection, idle_look_ms),
                               now_ms) < 0) {
        Py_XDECREF(due);
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(due); i++) {
        Connection *connection = (Connection *)PyList_GET_ITEM(due, i);
        if (!list_empty(&connection->idle_timer))
            websocket_look_idle(connection, now_ms);
    }
    Py_DECREF(due);
    return 0;
}

int
deadline_enforce(Factory *factory)
{
    int64_t now_ms = factory_now_ms();
    PyObject *due = PyList_New(0);
    int result = due == NULL ? -1 : 0;
    for (int kind = DEADLINE_NONE + 1; result == 0 && kind < DEADLINE_KINDS; kind++)
        result = collect(due, &factory->deadlines[kind], offsetof(Connection, timer),
                         offsetof(Connection, deadline_ms), now_ms);
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(due); i++) {
        Connection *connection = (Connection *)PyList_GET_ITEM(due, i);
        if (!list_empty(&connection->timer) && connection->deadline_ms <= now_ms)
            end_waiting(connection);
    }
    Py_XDECREF(due);
    return result < 0 || enforce_idles(factory, now_ms) < 0 ? -1 : enforce_stalls(factory, now_ms);
}
