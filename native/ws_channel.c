/* receive() and send() of a WebSocket: what the app hears and says (ASGI WebSocket spec). See websocket.h.
 *
 * The order of what an app may say is one table, below.
 */
#include "websocket.h"

#include "output.h"
#include "ws_frame.h"

/* What the app may say. */
typedef enum { SAY_ACCEPT, SAY_SEND, SAY_CLOSE, SAY_START, SAY_BODY, SAY_KINDS } Say;

#define ILLEGAL 0xff

/* The state behind each message. Of a body, the last one: a denial stays one until then. */
static const uint8_t NEXT[WS_STATES][SAY_KINDS] = {
    /*               accept   send     close       http.response.start  http.response.body */
    [WS_OPENING] = {WS_OPEN, ILLEGAL, WS_CLOSED, WS_DENYING, ILLEGAL},
    [WS_DENYING] = {ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL, WS_CLOSED},
    [WS_OPEN] = {ILLEGAL, WS_OPEN, WS_CLOSING, ILLEGAL, ILLEGAL},
    [WS_CLOSING] = {ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL},
    [WS_CLOSED] = {ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL},
};

/* ---- asked by receive() ---- */

/* A new message of `type`; NULL with MemoryError. */
static PyObject *
new_message(const State *state, PyObject *type)
{
    PyObject *message = PyDict_New();
    if (message != NULL && PyDict_SetItem(message, state->names.type, type) < 0)
        Py_CLEAR(message);
    return message;
}

/* websocket.receive with `data` (str or bytes; stolen). */
static PyObject *
receive_message(const Factory *factory, PyObject *data)
{
    const State *state = factory->state;
    PyObject *message = PyDict_Copy(factory->receive_message);
    PyObject *key = PyBytes_CheckExact(data) ? state->names.bytes : state->names.text;
    if (message != NULL && PyDict_SetItem(message, key, data) < 0)
        Py_CLEAR(message);
    Py_DECREF(data);
    return message;
}

/* websocket.disconnect. */
static PyObject *
disconnect_message(Cycle *cycle)
{
    const State *state = cycle->factory->state;
    const WebSocket *websocket = cycle->websocket;
    PyObject *message = new_message(state, state->names.websocket_disconnect);
    PyObject *code = PyLong_FromLong(websocket->close_code != 0 ? websocket->close_code : WS_CODE_ABNORMAL);
    PyObject *reason = websocket->close_reason != NULL ? Py_NewRef(websocket->close_reason)
                                                       : PyUnicode_FromStringAndSize(NULL, 0);
    if (message != NULL && (code == NULL || reason == NULL || PyDict_SetItem(message, state->names.code, code) < 0 ||
                            PyDict_SetItem(message, state->names.reason, reason) < 0))
        Py_CLEAR(message);
    Py_XDECREF(code);
    Py_XDECREF(reason);
    cycle->told_disconnect = message != NULL;
    return message;
}

PyObject *
websocket_take_message(Cycle *cycle)
{
    const State *state = cycle->factory->state;
    WebSocket *websocket = cycle->websocket;
    if (!websocket->connect_told) {
        websocket->connect_told = true;
        return new_message(state, state->names.websocket_connect);
    }
    PyObject *data = websocket_unqueue(websocket);
    if (data != NULL) {
        Connection *connection = (Connection *)cycle->stream;
        if (websocket->queue.count == 0 && connection != NULL && connection->unparsed != NULL && !websocket->turning)
            connection_schedule_resume(connection);
        return receive_message(cycle->factory, data);
    }
    if (cycle->disconnected || cycle->input_closed || websocket->close_code != 0 || websocket->state == WS_CLOSED)
        return disconnect_message(cycle);
    return NULL;
}

/* ---- said by send() ---- */

static int
refuse(PyObject *error, const char *text)
{
    PyErr_SetString(error, text);
    return -1;
}

/* Whether it may be said now. 0, or -1 with ClientDisconnected or MessageError. */
static int
check_order(const Cycle *cycle, Say say)
{
    const State *state = cycle->factory->state;
    const WebSocket *websocket = cycle->websocket;
    if (websocket->closed_by_app)
        return refuse(state->MessageError, "send() after the WebSocket was closed by websocket.close");
    if (websocket->state == WS_CLOSED && !websocket->accepted && !cycle->disconnected)
        return refuse(state->MessageError, "send() after the handshake was answered with an HTTP response");
    if (cycle->stream == NULL || cycle->disconnected || websocket->state >= WS_CLOSING)
        return refuse(state->ClientDisconnected, "the WebSocket is closed");
    if (say == SAY_ACCEPT && cycle->input_closed)
        return refuse(state->ClientDisconnected, "the client has closed its side: no WebSocket can come of it");
    if (NEXT[websocket->state][say] != ILLEGAL)
        return 0;
    if (websocket->state == WS_DENYING)
        return refuse(state->MessageError, "only websocket.http.response.body may follow websocket.http.response.start");
    if (websocket->state == WS_OPEN)
        return refuse(state->MessageError, "an accepted WebSocket takes websocket.send and websocket.close only");
    return refuse(state->MessageError, "a handshake is answered with websocket.accept, websocket.close or "
                                       "websocket.http.response.start");
}

/* A whole message that is not compressed. `owner`: the bytes object that `data` is in, or NULL. 0, or -1. */
static int
write_frame(Connection *connection, WsOpcode opcode, const char *data, Py_ssize_t length, PyObject *owner)
{
    bool copied = owner == NULL || length <= WRITER_COPY_BYTES;
    char *to = writer_reserve(&connection->out, WS_SERVER_HEADER_BYTES + (copied ? (size_t)length : 0));
    if (to == NULL)
        return -1;
    char *end = ws_put_header(to, opcode, (uint64_t)length);
    if (copied) {
        memcpy(end, data, (size_t)length);
        end += length;
    }
    writer_commit(&connection->out, end);
    if (!copied && writer_body(&connection->out, owner) < 0) {
        connection_abort(connection); /* a header without its frame: nobody can say what is on the wire */
        return -1;
    }
    if (!connection->corked || connection->out.total > WRITER_FLUSH_BYTES)
        output_flush(connection);
    return 0;
}

/* A message that the engine compresses. 0, or -1. May run Python. */
static int
write_compressed(Cycle *cycle, PyObject *data)
{
    const State *state = cycle->factory->state;
    PyObject *extensions = Py_NewRef(cycle->websocket->extensions);
    PyObject *frames = call_method2(cycle->factory->websocket, state->names.send, extensions, data);
    Py_DECREF(extensions);
    int result = frames == NULL ? -1 : check_order(cycle, SAY_SEND);
    if (result == 0) {
        Connection *connection = (Connection *)Py_NewRef(cycle->stream); /* a failed flush lets go of it */
        result = websocket_write(connection, frames);
        Py_DECREF(connection);
    }
    Py_XDECREF(frames);
    return result;
}

/* Sends `data`: str or bytes, of `length` bytes at `text`. 0, or -1. May run Python. */
static int
send_data(Cycle *cycle, PyObject *data, const char *text, Py_ssize_t length)
{
    WebSocket *websocket = cycle->websocket;
    websocket->messages++;
    figures_add(&cycle->factory->figures, FIGURE_ws_messages_sent);
    if (UNLIKELY(websocket->extensions != NULL && length >= cycle->factory->limits.ws_compress_min))
        return write_compressed(cycle, data);
    Connection *connection = (Connection *)Py_NewRef(cycle->stream);
    bool is_bytes = PyBytes_CheckExact(data);
    int result = write_frame(connection, is_bytes ? WS_BINARY : WS_TEXT, text, length, is_bytes ? data : NULL);
    connection_check(connection);
    Py_DECREF(connection);
    return result;
}

static int
send_text(Cycle *cycle, PyObject *text)
{
    const State *state = cycle->factory->state;
    Py_ssize_t length;
    if (!PyUnicode_Check(text)) {
        PyErr_Format(state->MessageError, "websocket.send: \"text\" must be a str, not %.80s", Py_TYPE(text)->tp_name);
        return -1;
    }
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &length);
    if (utf8 == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            PyErr_Clear();
            refuse(state->MessageError, "websocket.send: \"text\" has a lone surrogate, which UTF-8 cannot express");
        }
        return -1;
    }
    return send_data(cycle, text, utf8, length);
}

static int
send_bytes(Cycle *cycle, PyObject *given)
{
    const State *state = cycle->factory->state;
    PyObject *bytes;
    if (PyBytes_CheckExact(given)) {
        bytes = Py_NewRef(given);
    }
    else if (PyObject_CheckBuffer(given)) {
        bytes = PyBytes_FromObject(given);
    }
    else {
        PyErr_Format(state->MessageError, "websocket.send: \"bytes\" must be bytes, not %.80s", Py_TYPE(given)->tp_name);
        bytes = NULL;
    }
    int result = bytes == NULL ? -1 : check_order(cycle, SAY_SEND); /* a buffer may run the app */
    if (result == 0)
        result = send_data(cycle, bytes, PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
    Py_XDECREF(bytes);
    return result;
}

/* websocket.send */
static int
say_send(Cycle *cycle, PyObject *message)
{
    const State *state = cycle->factory->state;
    /* A key of the message may run the app when it is compared: what was found is held, and the order is looked at again. */
    PyObject *bytes = Py_XNewRef(PyDict_GetItemWithError(message, state->names.bytes));
    PyObject *text = bytes == NULL && PyErr_Occurred() ? NULL : Py_XNewRef(PyDict_GetItemWithError(message, state->names.text));
    bool has_bytes = bytes != NULL && bytes != Py_None;
    bool has_text = text != NULL && text != Py_None;
    int result = PyErr_Occurred() ? -1 : check_order(cycle, SAY_SEND);
    if (result == 0 && has_bytes == has_text)
        result = refuse(state->MessageError, "websocket.send needs either \"text\" (a str) or \"bytes\"");
    else if (result == 0)
        result = has_text ? send_text(cycle, text) : send_bytes(cycle, bytes);
    Py_XDECREF(bytes);
    Py_XDECREF(text);
    return result;
}

/* "code" of websocket.close, or -1 with MessageError. */
static int
message_code(const State *state, PyObject *message)
{
    PyObject *code = PyDict_GetItemWithError(message, state->names.code);
    if (code == NULL && PyErr_Occurred())
        return -1;
    if (code == NULL || code == Py_None)
        return WS_CODE_NORMAL;
    int overflow = 0;
    long number = PyLong_Check(code) ? PyLong_AsLongAndOverflow(code, &overflow) : -1;
    if (number >= 0 && number <= 65535 && !overflow)
        return (int)number;
    return refuse(state->MessageError, "websocket.close: \"code\" must be an int that a close frame can carry");
}

/* "reason" of websocket.close as a str: new reference, NULL with MessageError. */
static PyObject *
message_reason(const State *state, PyObject *message)
{
    PyObject *reason = PyDict_GetItemWithError(message, state->names.reason);
    if (reason == NULL && PyErr_Occurred())
        return NULL;
    if (reason == NULL || reason == Py_None)
        return PyUnicode_FromStringAndSize(NULL, 0);
    if (PyUnicode_CheckExact(reason))
        return Py_NewRef(reason);
    if (PyUnicode_Check(reason))
        return PyUnicode_FromObject(reason);
    refuse(state->MessageError, "websocket.close: \"reason\" must be a str");
    return NULL;
}

/* websocket.close */
static int
say_close(Cycle *cycle, PyObject *message)
{
    const State *state = cycle->factory->state;
    WebSocket *websocket = cycle->websocket;
    if (websocket->state == WS_OPENING)
        return websocket_deny(cycle);
    int code = message_code(state, message);
    PyObject *reason = code < 0 ? NULL : message_reason(state, message);
    if (reason == NULL || check_order(cycle, SAY_CLOSE) < 0) { /* a key of the message may have run the app */
        Py_XDECREF(reason);
        return -1;
    }
    Connection *connection = (Connection *)Py_NewRef(cycle->stream);
    int result = websocket_close(connection, websocket, code, reason);
    if (result == 0) {
        websocket->closed_by_app = true;
    }
    else if (PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyObject *error = error_take();
        PyErr_Format(state->MessageError, "websocket.close: %S", error);
        Py_DECREF(error);
    }
    connection_check(connection);
    Py_DECREF(connection);
    Py_DECREF(reason);
    return result;
}

/* websocket.http.response.start and .body: an HTTP response like any other. */
static int
say_response(Cycle *cycle, PyObject *message, Say say)
{
    WebSocket *websocket = cycle->websocket;
    int result = say == SAY_START ? cycle_send_start(cycle, message) : cycle_send_body(cycle, message);
    if (websocket->accepted) /* iterating the headers ran the app, which accepted */
        return result;
    if (cycle->response == RESPONSE_DONE)
        websocket->state = WS_CLOSED;
    else if (result == 0)
        websocket->state = NEXT[WS_OPENING][SAY_START];
    return result;
}

/* Whether `type` is "websocket.send": what nearly every message is. An app's string is not ours, so it is compared. */
static inline bool
is_send(PyObject *type)
{
    static const char send[] = "websocket.send";
    return PyUnicode_GET_LENGTH(type) == sizeof(send) - 1 && PyUnicode_IS_ASCII(type) &&
           memcmp(PyUnicode_DATA(type), send, sizeof(send) - 1) == 0;
}

/* Which message it is; SAY_KINDS with MessageError if none. */
static Say
kind_of(const State *state, PyObject *type)
{
    PyObject *const types[SAY_KINDS] = {
        [SAY_ACCEPT] = state->names.websocket_accept,       [SAY_SEND] = state->names.websocket_send,
        [SAY_CLOSE] = state->names.websocket_close,         [SAY_START] = state->names.websocket_response_start,
        [SAY_BODY] = state->names.websocket_response_body,
    };
    for (int say = 0; say < SAY_KINDS; say++)
        if (type == types[say] || PyUnicode_Compare(type, types[say]) == 0)
            return (Say)say;
    PyErr_Format(state->MessageError, "send(): unknown message type %R; a WebSocket takes websocket.accept, .send and .close",
                 type);
    return SAY_KINDS;
}

int
websocket_send(Cycle *cycle, PyObject *message)
{
    const State *state = cycle->factory->state;
    PyObject *type = PyDict_GetItemWithError(message, state->names.type);
    if (type == NULL || !PyUnicode_Check(type))
        return PyErr_Occurred() ? -1 : refuse(state->MessageError, "send(): the message has no \"type\" (a str)");
    Say say = is_send(type) ? SAY_SEND : kind_of(state, type);
    if (say == SAY_KINDS || check_order(cycle, say) < 0)
        return -1;
    switch (say) {
    case SAY_SEND: return say_send(cycle, message);
    case SAY_ACCEPT: return websocket_accept(cycle, message);
    case SAY_CLOSE: return say_close(cycle, message);
    default: return say_response(cycle, message, say);
    }
}
