/* The opening handshake (RFC 6455 §4.2): asked of the engine, given to the app, accepted or denied. See websocket.h. */
#include "websocket.h"

#include "account.h"
#include "chars.h"
#include "fields.h"
#include "forwarded.h"
#include "head.h"
#include "output.h"
#include "scope.h"
#include "trace.h"

/* ---- the request ---- */

bool
websocket_is_wanted(const Connection *connection, const Cycle *cycle)
{
    /* RFC 9110 §7.8: an Upgrade is ignored in HTTP/1.0, and where Connection does not name it. */
    return connection->wants_websocket && connection->connection_upgrade && !cycle->version_10 &&
           connection->factory->websocket != NULL;
}

/* Answers the handshake in the app's place. 0, or -1 with an exception. May run Python. */
static int
answer(Cycle *cycle, int status, PyObject *fields, PyObject *text)
{
    if (cycle->wire->head(cycle, status, fields) < 0)
        return -1;
    cycle->status = status;
    cycle->no_body = cycle->head_only;
    cycle->body_sent = (uint64_t)PyBytes_GET_SIZE(text);
    cycle->response = RESPONSE_DONE;
    return cycle->wire->body(cycle, text, false);
}

/* What the engine refused. May run Python. */
static void
refuse_handshake(Connection *connection, Cycle *cycle, int status, PyObject *fields, PyObject *text)
{
    char reason[160];
    Py_ssize_t length = PyBytes_GET_SIZE(text);
    while (length > 0 && PyBytes_AS_STRING(text)[length - 1] == '\n')
        length--;
    snprintf(reason, sizeof(reason), "%.*s", (int)(length < 150 ? length : 150), PyBytes_AS_STRING(text));
    PyObject *list = PySequence_List(fields);
    PyObject *type = Py_BuildValue("(yy)", "content-type", "text/plain; charset=utf-8");
    if (list == NULL || type == NULL || PyList_Append(list, type) < 0 || answer(cycle, status, list, text) < 0) {
        PyErr_WriteUnraisable(connection->factory->websocket);
        connection_reject(connection, 500, head_reason(500));
    }
    else {
        connection_report(connection, status, reason);
    }
    Py_XDECREF(list);
    Py_XDECREF(type);
}

/* What the engine says to the handshake: a new tuple (status, fields, subprotocols or text, extensions), NULL with an
 * exception. May run Python. */
static PyObject *
ask_engine(const Connection *connection, const Cycle *cycle)
{
    const State *state = connection->factory->state;
    if (connection->content_length > 0 || connection->coding != CODING_NONE)
        return Py_BuildValue("(i[]yO)", 400, "WebSocket handshake refused: it has a body.\n", Py_None);
    PyObject *result = call_method2(connection->factory->websocket, state->names.open, cycle->method, cycle->headers);
    if (result != NULL && (!PyTuple_Check(result) || PyTuple_GET_SIZE(result) != 4)) {
        PyErr_Format(PyExc_TypeError, "the WebSocket engine's open() gave %R", result);
        Py_CLEAR(result);
    }
    return result;
}

void
websocket_run(Connection *connection, Cycle *cycle)
{
    Factory *factory = connection->factory;
    int status;
    PyObject *fields, *detail, *extensions;
    PyObject *scope = NULL;
    if (trace_begin(cycle) < 0)
        PyErr_WriteUnraisable((PyObject *)connection); /* out of memory */
    PyObject *answered = ask_engine(connection, cycle);
    if (connection->current != cycle) { /* the engine ran long enough for the client to go */
        if (answered == NULL)
            PyErr_WriteUnraisable(factory->websocket);
        Py_XDECREF(answered);
        return;
    }
    Py_XSETREF(cycle->method, Py_NewRef(factory->state->names.method_websocket)); /* for the logs */
    if (answered != NULL && PyArg_ParseTuple(answered, "iOOO", &status, &fields, &detail, &extensions)) {
        if (status >= 400 && status <= 599 && PyBytes_CheckExact(detail)) {
            refuse_handshake(connection, cycle, status, fields, detail);
            Py_DECREF(answered);
            return;
        }
        if (status == (cycle->version_2 ? 200 : 101)) /* RFC 8441 §5 */
            cycle->websocket = websocket_new(factory, fields, extensions);
        else
            PyErr_Format(PyExc_TypeError, "the WebSocket engine's open() gave %R", answered);
        if (cycle->websocket != NULL)
            scope = scope_build_websocket(cycle, connection->scope_base, detail);
        if (scope == NULL)
            PyErr_WriteUnraisable(factory->websocket);
        else if (UNLIKELY(connection->forwarded) && forwarded_apply(connection, cycle, scope) < 0)
            Py_CLEAR(scope);
    }
    else {
        PyErr_WriteUnraisable(factory->websocket);
    }
    if (connection->current != cycle) {
        Py_CLEAR(scope);
    }
    else if (scope != NULL) {
        cycle_start(cycle, scope);
    }
    else {
        connection_reject(connection, 500, head_reason(500));
    }
    Py_XDECREF(answered);
}

/* ---- accepted ---- */

/* Fields of the 101 that are not for the app to write: RFC 6455 §4.2.2, RFC 9110 §8.6. */
static bool
is_ours(PyObject *item)
{
    static const char *const names[] = {"connection", "content-length", "sec-websocket-accept", "sec-websocket-extensions",
                                        "sec-websocket-protocol", "transfer-encoding", "upgrade"};
    PyObject *name = (PyTuple_Check(item) || PyList_Check(item)) && PySequence_Fast_GET_SIZE(item) > 0
                         ? PySequence_Fast_GET_ITEM(item, 0)
                         : NULL;
    if (name == NULL || !PyBytes_Check(name))
        return false; /* head_encode() says what is wrong with it */
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if ((size_t)PyBytes_GET_SIZE(name) == strlen(names[i]) &&
            chars_equal_lower(PyBytes_AS_STRING(name), names[i], strlen(names[i])))
            return true;
    return false;
}

/* Appends the app's "headers" to `fields`. 0, or -1. May run Python. */
static int
add_app_fields(const State *state, PyObject *fields, PyObject *message)
{
    PyObject *headers = PyDict_GetItemWithError(message, state->names.headers);
    if (headers == NULL || headers == Py_None)
        return PyErr_Occurred() ? -1 : 0;
    Py_INCREF(headers);
    PyObject *items = PySequence_List(headers);
    Py_DECREF(headers);
    if (items == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_SetString(state->MessageError,
                            "websocket.accept: \"headers\" must be an iterable of [name, value] pairs");
        return -1;
    }
    int result = 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(items); i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        if (is_ours(item)) {
            PyErr_Format(state->HeaderError, "websocket.accept: the header %R is the server's to send",
                         PySequence_Fast_GET_ITEM(item, 0));
            result = -1;
        }
        else {
            result = PyList_Append(fields, item);
        }
    }
    Py_DECREF(items);
    return result;
}

/* Appends the app's "subprotocol" to `fields`. 0, or -1. */
static int
add_subprotocol(const State *state, PyObject *fields, PyObject *message)
{
    PyObject *subprotocol = PyDict_GetItemWithError(message, state->names.subprotocol);
    if (subprotocol == NULL || subprotocol == Py_None)
        return PyErr_Occurred() ? -1 : 0;
    Py_ssize_t length;
    const char *text = PyUnicode_Check(subprotocol) ? PyUnicode_AsUTF8AndSize(subprotocol, &length) : NULL;
    if (text == NULL || !chars_is_token(text, (size_t)length)) {
        PyErr_Clear();
        PyErr_SetString(state->MessageError, "websocket.accept: \"subprotocol\" must be a str that is a token, or None");
        return -1;
    }
    PyObject *pair = Py_BuildValue("(yy#)", "sec-websocket-protocol", text, length);
    int result = pair == NULL ? -1 : PyList_Append(fields, pair);
    Py_XDECREF(pair);
    return result;
}

/* All fields of the 101. New list; NULL with an exception. May run Python. */
static PyObject *
accept_fields(const WebSocket *websocket, PyObject *message)
{
    const State *state = websocket->factory->state;
    PyObject *fields = websocket->fields == NULL ? PyList_New(0) : PySequence_List(websocket->fields);
    if (fields != NULL && (add_subprotocol(state, fields, message) < 0 || add_app_fields(state, fields, message) < 0))
        Py_CLEAR(fields);
    return fields;
}

/* From here on the connection is the WebSocket's. May run Python. */
static void
take_over(Connection *connection, Cycle *cycle)
{
    WebSocket *websocket = cycle->websocket;
    websocket->state = WS_OPEN;
    websocket->accepted = true;
    Py_CLEAR(websocket->fields);
    Py_XSETREF(connection->websocket, (WebSocket *)Py_NewRef(websocket));
    cycle->response = RESPONSE_DONE;
    cycle->status = cycle->version_2 ? 200 : 101;
    deadline_start(connection, DEADLINE_WS_PING);
    deadline_watch_idle(connection);
    figures_add(&connection->factory->figures, FIGURE_websockets_accepted);
    account_response(connection, cycle);
}

int
websocket_accept(Cycle *cycle, PyObject *message)
{
    Connection *connection = (Connection *)Py_NewRef(cycle->stream);
    WebSocket *websocket = cycle->websocket;
    PyObject *fields = accept_fields(websocket, message);
    int result = fields == NULL ? -1 : 0;
    if (result == 0 && (cycle->stream == NULL || websocket->state != WS_OPENING)) { /* iterating the headers ran the app */
        PyErr_SetString(cycle->factory->state->MessageError, "websocket.accept: the handshake was over before its headers");
        result = -1;
    }
    if (result == 0)
        result = cycle->wire->accept(cycle, fields);
    Py_XDECREF(fields);
    if (result == 0) {
        take_over(connection, cycle);
        if (!connection->corked)
            output_flush(connection);
        if (connection->factory->ending_streams)
            websocket_restart(connection);
        if (connection->unparsed != NULL || connection->input_ended)
            connection_schedule_resume(connection);
    }
    connection_check(connection);
    Py_DECREF(connection);
    return result;
}

/* ---- denied ---- */

int
websocket_deny(Cycle *cycle)
{
    const State *state = cycle->factory->state;
    PyObject *fields = PyTuple_New(0);
    cycle->websocket->state = WS_CLOSED;
    cycle->websocket->closed_by_app = true;
    int result = fields == NULL ? -1 : answer(cycle, 403, fields, state->empty_bytes);
    Py_XDECREF(fields);
    return result;
}
