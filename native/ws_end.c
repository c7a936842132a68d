/* The ways a WebSocket ends, and how long its client may be silent (RFC 6455 §7, §5.5.2). See websocket.h. */
#include "websocket.h"

#include "output.h"

/* ---- output of the engine ---- */

int
websocket_write(Connection *connection, PyObject *frames)
{
    if (!PyBytes_CheckExact(frames)) {
        PyErr_Format(PyExc_TypeError, "the WebSocket engine gave %.80s to send", Py_TYPE(frames)->tp_name);
        return -1;
    }
    if (PyBytes_GET_SIZE(frames) == 0)
        return 0;
    if (writer_body(&connection->out, frames) < 0)
        return -1;
    if (!connection->corked || connection->out.total > WRITER_FLUSH_BYTES)
        output_flush(connection);
    return 0;
}

/* ---- ended by us ---- */

/* The first word on how it ended is what the app hears. */
static void
note_end(WebSocket *websocket, int code, PyObject *reason)
{
    if (websocket->close_code != 0)
        return;
    websocket->close_code = code;
    websocket->close_reason = Py_XNewRef(reason);
}

int
websocket_close(Connection *connection, WebSocket *websocket, int code, PyObject *reason)
{
    const State *state = connection->factory->state;
    PyObject *number = PyLong_FromLong(code);
    PyObject *frames = number == NULL ? NULL : call_method2(connection->factory->websocket, state->names.close, number, reason);
    Py_XDECREF(number);
    int result = frames == NULL ? -1 : 0;
    if (result == 0 && websocket->state == WS_OPEN) {
        websocket->state = WS_CLOSING;
        note_end(websocket, code, reason);
        Py_CLEAR(websocket->peer);
        list_remove(&connection->idle_timer);
        deadline_start(connection, DEADLINE_WS_CLOSE);
        if (connection->unparsed != NULL)
            connection_schedule_resume(connection); /* the client's close frame may be in it */
        result = websocket_write(connection, frames);
    }
    Py_XDECREF(frames);
    return result;
}

void
websocket_close_for(Connection *connection, int code, const char *reason)
{
    WebSocket *websocket = (WebSocket *)Py_NewRef(connection->websocket);
    PyObject *text = PyUnicode_FromString(reason);
    if (text == NULL || websocket_close(connection, websocket, code, text) < 0)
        websocket_engine_failed(connection, websocket);
    Py_XDECREF(text);
    Py_DECREF(websocket);
}

void
websocket_end(Connection *connection, WebSocket *websocket, int code, PyObject *reason, bool linger)
{
    note_end(websocket, code, reason);
    websocket->state = WS_CLOSED;
    list_remove(&connection->idle_timer);
    deadline_stop(connection);
    connection->keep = false;
    connection->close_after = true;
    connection->discarding = linger;
    Py_CLEAR(connection->unparsed);
    websocket_drop_input(websocket);
}

void
websocket_engine_failed(Connection *connection, WebSocket *websocket)
{
    static const char close_1011[] = {(char)0x88, 2, (char)(WS_CODE_INTERNAL_ERROR >> 8), (char)(WS_CODE_INTERNAL_ERROR & 0xff)};
    bool was_open = websocket->state == WS_OPEN;
    PyErr_WriteUnraisable(connection->factory->websocket);
    if (websocket->state == WS_CLOSED)
        return;
    output_cork(connection);
    if (was_open && writer_copy(&connection->out, close_1011, sizeof(close_1011)) < 0)
        PyErr_Clear();
    websocket_end(connection, websocket, WS_CODE_INTERNAL_ERROR, NULL, true);
    output_uncork(connection);
    connection_report(connection, WS_CODE_INTERNAL_ERROR, "the WebSocket engine failed");
}

bool
websocket_restart(Connection *connection)
{
    if (connection->websocket == NULL || connection->websocket->state != WS_OPEN)
        return false;
    Py_INCREF(connection);
    websocket_close_for(connection, WS_CODE_SERVICE_RESTART, "service restart");
    websocket_wake(connection);
    Py_DECREF(connection);
    return true;
}

/* ---- ended by the app ---- */

PyObject *
websocket_app_done(Cycle *cycle, PyObject *error)
{
    const State *state = cycle->factory->state;
    WebSocket *websocket = cycle->websocket;
    Connection *connection = (Connection *)Py_XNewRef(cycle->stream);
    if (connection == NULL)
        return websocket->closed_by_app ? state->names.outcome_closed : state->names.outcome_gone;
    PyObject *outcome = state->names.outcome_closed;
    output_cork(connection);
    if (websocket->state == WS_OPEN) {
        websocket_close_for(connection, error == NULL ? WS_CODE_NORMAL : WS_CODE_INTERNAL_ERROR, "");
        outcome = state->names.outcome_1011;
    }
    if (connection->current == cycle) {
        connection->current = NULL;
        Py_CLEAR(cycle->stream);
        cycle_release(cycle); /* the connection's */
    }
    output_uncork(connection);
    connection_check(connection);
    Py_DECREF(connection);
    return outcome;
}

void
websocket_wake(Connection *connection)
{
    Cycle *cycle = (Cycle *)Py_XNewRef(connection->current);
    if (cycle == NULL)
        return;
    if (connection->websocket->queue.count > 0 || connection->websocket->close_code != 0)
        cycle_wake_receiver(cycle);
    cycle_release(cycle);
}

/* ---- ended by the client ---- */

bool
websocket_eof(Connection *connection)
{
    WebSocket *websocket = connection->websocket;
    if (websocket->state == WS_CLOSED)
        return connection->close_after && !connection->closing;
    if (connection->unparsed != NULL || websocket->feeding)
        return true; /* websocket_resume() comes back to it */
    output_cork(connection);
    websocket_end(connection, websocket, WS_CODE_ABNORMAL, NULL, false);
    websocket_wake(connection);
    output_uncork(connection);
    return true;
}

/* ---- silent for too long ---- */

/* Whether nothing can be said of the client: what it sent is not read. */
static bool
is_unread(const Connection *connection)
{
    return connection->reading_paused || connection->unparsed != NULL;
}

static void
send_ping(Connection *connection)
{
    WebSocket *websocket = connection->websocket;
    const State *state = connection->factory->state;
    websocket->alive = false;
    deadline_start(connection, connection->factory->limits.ws_ping_timeout_ms > 0 ? DEADLINE_WS_PONG : DEADLINE_WS_PING);
    PyObject *frame = call_method0(connection->factory->websocket, state->names.ping);
    if (frame == NULL || (websocket->state == WS_OPEN && websocket_write(connection, frame) < 0))
        websocket_engine_failed(connection, websocket);
    Py_XDECREF(frame);
}

static void
end_silence(Connection *connection)
{
    WebSocket *websocket = connection->websocket;
    if (websocket->alive || is_unread(connection)) {
        deadline_start(connection, DEADLINE_WS_PING);
        return;
    }
    output_cork(connection);
    websocket_close_for(connection, WS_CODE_INTERNAL_ERROR, "keepalive ping timeout");
    websocket_end(connection, websocket, WS_CODE_INTERNAL_ERROR, NULL, false);
    websocket_wake(connection);
    output_uncork(connection);
    connection_report(connection, WS_CODE_INTERNAL_ERROR, "keepalive ping timeout");
    connection_abort(connection); /* its output may never go away */
    connection_gone(connection);
}

void
websocket_deadline(Connection *connection)
{
    Py_INCREF(connection);
    WebSocket *websocket = (WebSocket *)Py_NewRef(connection->websocket);
    switch ((Deadline)connection->deadline) {
    case DEADLINE_WS_PING: send_ping(connection); break;
    case DEADLINE_WS_PONG: end_silence(connection); break;
    default:
        output_cork(connection);
        websocket_end(connection, websocket, WS_CODE_ABNORMAL, NULL, false);
        if (connection->tunnelled && deadline_held_bytes(connection) > 0)
            connection_abort(connection); /* END_STREAM would wait for a window that the client keeps shut */
        output_uncork(connection);
        break;
    }
    connection_check(connection);
    Py_DECREF(websocket);
    Py_DECREF(connection);
}

void
websocket_look_idle(Connection *connection, int64_t now_ms)
{
    WebSocket *websocket = connection->websocket;
    if (websocket->messages != websocket->messages_seen) {
        websocket->messages_seen = websocket->messages;
        websocket->idle_looks = 0;
    }
    else if (++websocket->idle_looks >= IDLE_LOOKS) {
        Py_INCREF(connection);
        websocket_close_for(connection, WS_CODE_GOING_AWAY, "idle");
        websocket_wake(connection);
        Py_DECREF(connection);
        return;
    }
    deadline_look_again(connection, now_ms);
}
