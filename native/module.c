/* shardserve._native: the request path. Multi-phase init; this file is the table of contents.
 *
 *   chars line date     pure leaves over the caller's bytes
 *   writer head         output: arena, references, one writev; the response head
 *   list ring pieces await  intrusive lists; queues of objects, of bytes; awaitables
 *   task parked         spare tasks, and the coroutine they run
 *   scope cycle channel what ASGI sees of one request: scope, life, receive and send
 *   ws_frame ws_mask    pure leaves of WebSocket
 *   websocket ws_*      WebSocket: handshake, the way in, receive and send, the end
 *   connection          the asyncio.Protocol; intake and request: the way in; http1: out; ending: the end
 *   http2 http2_* tunnel  HTTP/2 on nghttp2, and WebSocket over it
 *   figures trace       what is counted; who a request is
 *   accesslog access_ops escape account   the access log; what is counted and logged of a request
 *   factory             what the connections of one worker share
 */
#include "native.h"

#include "accesslog.h"
#include "await.h"
#include "connection.h"
#include "cycle.h"
#include "factory.h"
#include "fields.h"
#include "http2.h"
#include "request.h"
#include "task.h"
#include "websocket.h"

static int
init_names(State *state)
{
#define X(name, text)                                                                              \
    state->names.name = PyUnicode_InternFromString(text);                                          \
    if (state->names.name == NULL)                                                                 \
        return -1;
    SHARDSERVE_NAMES(X)
#undef X
    state->empty_bytes = PyBytes_FromStringAndSize(NULL, 0);
    state->post_bytes = PyBytes_FromString("POST");
    if (state->empty_bytes == NULL || state->post_bytes == NULL || request_init_methods(state) < 0)
        return -1;
    return fields_init_names(state);
}

/* module.attribute; new reference, NULL with an exception. */
static PyObject *
import_from(const char *module, const char *attribute)
{
    PyObject *imported = PyImport_ImportModule(module);
    PyObject *value = imported == NULL ? NULL : PyObject_GetAttrString(imported, attribute);
    Py_XDECREF(imported);
    return value;
}

static int
init_imports(State *state)
{
    const struct {
        PyObject **slot;
        const char *module;
        const char *attribute;
    } imports[] = {
        {&state->MessageError, "shardserve.errors", "MessageError"},
        {&state->HeaderError, "shardserve.errors", "HeaderError"},
        {&state->BodyLengthError, "shardserve.errors", "BodyLengthError"},
        {&state->ClientDisconnected, "shardserve.errors", "ClientDisconnected"},
        {&state->HttpRequestParser, "httptools", "HttpRequestParser"},
        {&state->HttpParserUpgrade, "httptools", "HttpParserUpgrade"},
        {&state->Task, "asyncio", "Task"},
        {&state->CancelledError, "asyncio", "CancelledError"},
        {&state->current_task, "asyncio", "current_task"},
        {&state->enter_task, "asyncio.tasks", "_enter_task"},
        {&state->leave_task, "asyncio.tasks", "_leave_task"},
    };
    for (size_t i = 0; i < sizeof(imports) / sizeof(imports[0]); i++) {
        *imports[i].slot = import_from(imports[i].module, imports[i].attribute);
        if (*imports[i].slot == NULL)
            return -1;
    }
    state->parser_feed = PyObject_GetAttrString(state->HttpRequestParser, "feed_data");
    return state->parser_feed == NULL ? -1 : 0;
}

static int
init_types(PyObject *module, State *state)
{
    const struct {
        PyTypeObject **slot;
        PyType_Spec *spec;
    } types[] = {
        {&state->factory_type, &factory_spec}, {&state->connection_type, &connection_spec},
        {&state->cycle_type, &cycle_spec},     {&state->send_type, &send_spec},
        {&state->receive_type, &receive_spec}, {&state->ready_type, &ready_spec},
        {&state->waiter_type, &waiter_spec},   {&state->parked_type, &parked_spec},
        {&state->websocket_type, &websocket_spec}, {&state->accesslog_type, &accesslog_spec},
#ifdef SHARDSERVE_NGHTTP2
        {&state->tunnel_type, &http2_tunnel_spec},
#endif
    };
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        *types[i].slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, types[i].spec, NULL);
        if (*types[i].slot == NULL)
            return -1;
    }
    state->ready_none = (PyObject *)PyObject_New(PyObject, state->ready_type);
    if (state->ready_none == NULL || PyModule_AddType(module, state->factory_type) < 0 ||
        PyModule_AddType(module, state->accesslog_type) < 0 || figures_init_module(module) < 0)
        return -1;
    return PyModule_AddType(module, state->connection_type);
}

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
#ifdef SHARDSERVE_DEBUG
    PyObject *debug = Py_True;
#else
    PyObject *debug = Py_False;
#endif
    if (init_names(state) < 0 || init_imports(state) < 0 || init_types(module, state) < 0)
        return -1;
    PyObject *version = http2_version();
    int result = version == NULL ? -1 : PyModule_AddObjectRef(module, "nghttp2_version", version);
    Py_XDECREF(version);
    return result < 0 ? -1 : PyModule_AddObjectRef(module, "debug_build", debug);
}

#define STATE_OBJECTS(X)                                                                           \
    X(ready_none)                                                                                  \
    X(empty_bytes)                                                                                 \
    X(MessageError)                                                                                \
    X(HeaderError)                                                                                 \
    X(BodyLengthError)                                                                             \
    X(ClientDisconnected)                                                                          \
    X(HttpRequestParser)                                                                           \
    X(HttpParserUpgrade)                                                                           \
    X(parser_feed)                                                                                 \
    X(post_bytes)                                                                                  \
    X(Task)                                                                                        \
    X(CancelledError)                                                                              \
    X(enter_task)                                                                                  \
    X(leave_task)                                                                                  \
    X(current_task)                                                                                \
    X(field_names)                                                                                 \
    X(field_connection)                                                                            \
    X(field_content_length)                                                                        \
    X(field_transfer_encoding)                                                                     \
    X(field_expect)                                                                                \
    X(field_host)                                                                                  \
    X(field_cookie)                                                                                \
    X(field_te)                                                                                    \
    X(field_upgrade)                                                                               \
    X(field_traceparent)                                                                           \
    X(field_authorization)                                                                         \
    X(factory_type)                                                                                \
    X(connection_type)                                                                             \
    X(cycle_type)                                                                                  \
    X(send_type)                                                                                   \
    X(receive_type)                                                                                \
    X(ready_type)                                                                                  \
    X(waiter_type)                                                                                 \
    X(parked_type)                                                                                 \
    X(websocket_type)                                                                              \
    X(accesslog_type)                                                                              \
    X(tunnel_type)

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
#define X(name) Py_VISIT(state->name);
    STATE_OBJECTS(X)
#undef X
    for (int i = 0; i < LINE_OTHER; i++)
        Py_VISIT(state->methods[i]);
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
#define X(name) Py_CLEAR(state->name);
    STATE_OBJECTS(X)
#undef X
#define X(name, text) Py_CLEAR(state->names.name);
    SHARDSERVE_NAMES(X)
#undef X
    for (int i = 0; i < LINE_OTHER; i++)
        Py_CLEAR(state->methods[i]);
    return 0;
}

static void
module_free(void *module)
{
    module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shardserve._native",
    .m_doc = "The request path of shardserve. See shardserve/_native.pyi.",
    .m_size = sizeof(State),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&module_definition);
}
