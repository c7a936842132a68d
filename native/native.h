/* What every file of native/ shares: Python.h, the module state, the invariant check.
 *
 * Rules of this folder (docs/decisions/0001-native.md):
 *  - the header is the manual: returns, ownership (new / borrowed / steals) and failure stand there;
 *  - no C globals but constants: everything else lives in State, reached by the Factory;
 *  - a function marked "may run Python" can destroy or change any object it was given: callers
 *    hold references across it and look at state again after it;
 *  - C never logs: failures go to the callables that the worker handed in.
 */
#ifndef SHARDSERVE_NATIVE_H
#define SHARDSERVE_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "line.h"

/* CHECK(condition): an impossibility of ours. Compiled in with -DSHARDSERVE_DEBUG only. */
#ifdef SHARDSERVE_DEBUG
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            Py_FatalError("CHECK failed: " #condition);                                            \
    } while (0)
#else
#define CHECK(condition) ((void)0)
#endif

/* How many of a kind are kept for reuse. None with -DSHARDSERVE_NO_SPARES, as the sanitizers build it: they only see a use of
 * what is free where it has been freed. */
#ifdef SHARDSERVE_NO_SPARES
#define SPARES(count) 0
#else
#define SPARES(count) (count)
#endif

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Interned str objects, by the name used in C. */
#define SHARDSERVE_NAMES(X)                                                                        \
    X(type, "type")                                                                                \
    X(http, "http")                                                                                \
    X(asgi, "asgi")                                                                                \
    X(version, "version")                                                                          \
    X(spec_version, "spec_version")                                                                \
    X(http_version, "http_version")                                                                \
    X(server, "server")                                                                            \
    X(client, "client")                                                                            \
    X(scheme, "scheme")                                                                            \
    X(root_path, "root_path")                                                                      \
    X(extensions, "extensions")                                                                    \
    X(method, "method")                                                                            \
    X(path, "path")                                                                                \
    X(raw_path, "raw_path")                                                                        \
    X(query_string, "query_string")                                                                \
    X(headers, "headers")                                                                          \
    X(state, "state")                                                                              \
    X(body, "body")                                                                                \
    X(more_body, "more_body")                                                                      \
    X(status, "status")                                                                            \
    X(http_request, "http.request")                                                                \
    X(http_disconnect, "http.disconnect")                                                          \
    X(http_response_start, "http.response.start")                                                  \
    X(http_response_body, "http.response.body")                                                    \
    X(version_10, "1.0")                                                                           \
    X(version_11, "1.1")                                                                           \
    X(version_2, "2")                                                                              \
    X(selected_alpn_protocol, "selected_alpn_protocol")                                            \
    X(outcome_500, "500 sent")                                                                     \
    X(outcome_cut, "connection closed early")                                                      \
    X(outcome_done, "response already sent")                                                       \
    X(outcome_gone, "client gone")                                                                 \
    X(outcome_aborted, "cut by the server")                                                        \
    X(get_extra_info, "get_extra_info")                                                            \
    X(get_write_buffer_size, "get_write_buffer_size")                                              \
    X(socket, "socket")                                                                            \
    X(fileno, "fileno")                                                                            \
    X(peername, "peername")                                                                        \
    X(sockname, "sockname")                                                                        \
    X(writelines, "writelines")                                                                    \
    X(can_write_eof, "can_write_eof")                                                              \
    X(write_eof, "write_eof")                                                                      \
    X(close, "close")                                                                              \
    X(abort, "abort")                                                                              \
    X(pause_reading, "pause_reading")                                                              \
    X(resume_reading, "resume_reading")                                                            \
    X(call_soon, "call_soon")                                                                      \
    X(call_later, "call_later")                                                                    \
    X(create_future, "create_future")                                                              \
    X(set_result, "set_result")                                                                    \
    X(done, "done")                                                                                \
    X(cancel, "cancel")                                                                            \
    X(cancelling, "cancelling")                                                                    \
    X(get_name, "get_name")                                                                        \
    X(callbacks, "_callbacks")                                                                     \
    X(must_cancel, "_must_cancel")                                                                 \
    X(future_blocking, "_asyncio_future_blocking")                                                 \
    X(throw_, "throw")                                                                             \
    X(loop, "loop")                                                                                \
    X(context, "context")                                                                          \
    X(ssl_object, "ssl_object")                                                                    \
    X(websocket, "websocket")                                                                      \
    X(ws, "ws")                                                                                    \
    X(wss, "wss")                                                                                  \
    X(subprotocol, "subprotocol")                                                                  \
    X(subprotocols, "subprotocols")                                                                \
    X(text, "text")                                                                                \
    X(bytes, "bytes")                                                                              \
    X(code, "code")                                                                                \
    X(reason, "reason")                                                                            \
    X(websocket_connect, "websocket.connect")                                                      \
    X(websocket_receive, "websocket.receive")                                                      \
    X(websocket_disconnect, "websocket.disconnect")                                                \
    X(websocket_accept, "websocket.accept")                                                        \
    X(websocket_send, "websocket.send")                                                            \
    X(websocket_close, "websocket.close")                                                          \
    X(websocket_response, "websocket.http.response")                                               \
    X(websocket_response_start, "websocket.http.response.start")                                   \
    X(websocket_response_body, "websocket.http.response.body")                                     \
    X(method_websocket, "WebSocket")                                                               \
    X(outcome_1011, "closed with 1011")                                                            \
    X(outcome_closed, "already closed")                                                            \
    X(pathsend, "http.response.pathsend")                                                          \
    X(zerocopysend, "http.response.zerocopysend")                                                  \
    X(http_response_trailers, "http.response.trailers")                                            \
    X(early_hint, "http.response.early_hint")                                                      \
    X(debug, "http.response.debug")                                                                \
    X(tls, "tls")                                                                                  \
    X(https, "https")                                                                              \
    X(file, "file")                                                                                \
    X(offset, "offset")                                                                            \
    X(count, "count")                                                                              \
    X(trailers, "trailers")                                                                        \
    X(more_trailers, "more_trailers")                                                              \
    X(request_id, "shardserve.request_id")                                                         \
    X(id, "id")                                                                                    \
    X(links, "links")                                                                              \
    X(info, "info")                                                                                \
    X(trusts, "trusts")                                                                            \
    X(apply, "apply")                                                                              \
    X(untrusted, "untrusted")                                                                      \
    X(write, "write")                                                                              \
    X(set_write_buffer_limits, "set_write_buffer_limits")                                          \
    X(high, "high")                                                                                \
    X(open, "open")                                                                                \
    X(receive, "receive")                                                                          \
    X(send, "send")                                                                                \
    X(ping, "ping")

typedef struct {
    /* types */
    PyTypeObject *factory_type;
    PyTypeObject *connection_type;
    PyTypeObject *cycle_type;
    PyTypeObject *send_type;
    PyTypeObject *receive_type;
    PyTypeObject *ready_type;
    PyTypeObject *waiter_type;
    PyTypeObject *parked_type;
    PyTypeObject *websocket_type;
    PyTypeObject *accesslog_type;
    PyTypeObject *tunnel_type; /* NULL: there is no HTTP/2 */
    /* the one ready awaitable whose result is None */
    PyObject *ready_none;
    PyObject *empty_bytes;
    /* shardserve.errors */
    PyObject *MessageError;
    PyObject *HeaderError;
    PyObject *BodyLengthError;
    PyObject *ClientDisconnected;
    /* httptools */
    PyObject *HttpRequestParser;
    PyObject *HttpParserUpgrade;
    PyObject *parser_feed; /* unbound HttpRequestParser.feed_data */
    PyObject *post_bytes;  /* b"POST" */
    /* asyncio */
    PyObject *Task;
    PyObject *CancelledError;
    PyObject *enter_task;
    PyObject *leave_task;
    PyObject *current_task;
    /* bytes as seen on the wire -> lower-cased bytes, for common field names only */
    PyObject *field_names;
    PyObject *field_connection;
    PyObject *field_content_length;
    PyObject *field_transfer_encoding;
    PyObject *field_expect;
    PyObject *field_host;
    PyObject *field_cookie;
    PyObject *field_upgrade;
    PyObject *field_te;
    PyObject *field_traceparent;
    PyObject *field_authorization;
    PyObject *methods[LINE_OTHER]; /* str, by LineMethod */
    struct {
#define X(name, text) PyObject *name;
        SHARDSERVE_NAMES(X)
#undef X
    } names;
} State;

/* The state of the module that defines `type` (borrowed); NULL with an exception. */
static inline State *
state_of_type(PyTypeObject *type)
{
    return (State *)PyType_GetModuleState(type);
}

/* The pending exception, cleared: a new reference with its traceback, or NULL. */
static inline PyObject *
error_take(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* Makes `error` (stolen, may be NULL) the pending exception. */
static inline void
error_restore(PyObject *error)
{
#if PY_VERSION_HEX >= 0x030c0000
    PyErr_SetRaisedException(error);
#else
    if (error == NULL)
        return;
    PyErr_Restore(Py_NewRef(Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}

/* Calls a method with no, one or two arguments. New reference; NULL with an exception. May run Python. */
static inline PyObject *
call_method0(PyObject *self, PyObject *name)
{
    return PyObject_VectorcallMethod(name, &self, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static inline PyObject *
call_method1(PyObject *self, PyObject *name, PyObject *arg)
{
    PyObject *args[2] = {self, arg};
    return PyObject_VectorcallMethod(name, args, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static inline PyObject *
call_method2(PyObject *self, PyObject *name, PyObject *first, PyObject *second)
{
    PyObject *args[3] = {self, first, second};
    return PyObject_VectorcallMethod(name, args, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

#endif
