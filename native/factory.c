/* The ProtocolFactory: what a worker's connections share. See factory.h and shardserve/_native.pyi.
 *
 * In the order of a life: made, called, ticked, closed. What ends its requests and connections is drain.c.
 */
#include "factory.h"

#include "accesslog.h"
#include "account.h"
#include "chars.h"
#include "connection.h"
#include "cycle.h"
#include "drain.h"
#include "fields.h"
#include "http2.h"
#include "scope.h"
#include "task.h"

#include <time.h>

int64_t
factory_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- made ---- */

/* Fields that only the server may write. */
static bool
is_framing(const char *name, size_t length)
{
    return (length == 14 && chars_equal_lower(name, "content-length", 14)) ||
           (length == 17 && chars_equal_lower(name, "transfer-encoding", 17)) ||
           (length == 10 && chars_equal_lower(name, "connection", 10));
}

/* Appends "name: value" CRLF of one (bytes, bytes) item to *encoded. 0, or -1 with *encoded cleared. */
static int
encode_field(PyObject **encoded, PyObject *item)
{
    const char *name, *value;
    Py_ssize_t name_length, value_length;
    PyObject *line = NULL;
    if (!PyTuple_Check(item)) {
        PyErr_SetString(PyExc_TypeError, "headers must be a list of (bytes, bytes)");
    }
    else if (PyArg_ParseTuple(item, "y#y#", &name, &name_length, &value, &value_length)) {
        if (!chars_is_token(name, (size_t)name_length) || !chars_is_field_value(value, (size_t)value_length) ||
            is_framing(name, (size_t)name_length))
            PyErr_Format(PyExc_ValueError, "header %R cannot go on the wire", item);
        else
            line = PyBytes_FromStringAndSize(NULL, name_length + value_length + 4);
    }
    if (line == NULL) {
        Py_CLEAR(*encoded);
        return -1;
    }
    char *to = PyBytes_AS_STRING(line);
    memcpy(to, name, (size_t)name_length);
    memcpy(to + name_length, ": ", 2);
    memcpy(to + name_length + 2, value, (size_t)value_length);
    memcpy(to + name_length + 2 + value_length, "\r\n", 2);
    PyBytes_ConcatAndDel(encoded, line);
    return *encoded == NULL ? -1 : 0;
}

/* The `headers` argument as encoded field lines. New bytes; NULL with an exception. */
static PyObject *
encode_fields(PyObject *headers)
{
    PyObject *fields = headers == NULL ? PyTuple_New(0) : PySequence_Tuple(headers);
    PyObject *encoded = fields == NULL ? NULL : PyBytes_FromStringAndSize(NULL, 0);
    for (Py_ssize_t i = 0; encoded != NULL && i < PyTuple_GET_SIZE(fields); i++)
        if (encode_field(&encoded, PyTuple_GET_ITEM(fields, i)) < 0)
            break;
    Py_XDECREF(fields);
    return encoded;
}

/* The `static` argument: a new tuple of its (prefix, app) pairs, longest prefix first, so that the first that fits is the
 * right one. NULL: there is none, or with an exception. */
static PyObject *
sorted_routes(PyObject *routes)
{
    PyObject *sorted = routes == NULL || routes == Py_None ? NULL : PySequence_List(routes);
    if (sorted == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(sorted); i++) {
        PyObject *route = Py_NewRef(PyList_GET_ITEM(sorted, i));
        bool valid = PyTuple_CheckExact(route) && PyTuple_GET_SIZE(route) == 2 && PyBytes_CheckExact(PyTuple_GET_ITEM(route, 0));
        Py_ssize_t to = i;
        while (valid && to > 0 &&
               PyBytes_GET_SIZE(PyTuple_GET_ITEM(PyList_GET_ITEM(sorted, to - 1), 0)) < PyBytes_GET_SIZE(PyTuple_GET_ITEM(route, 0)))
            to--;
        if (!valid)
            PyErr_SetString(PyExc_TypeError, "static must be a list of (bytes, app)");
        if (!valid || PyList_SetSlice(sorted, i, i + 1, NULL) < 0 || PyList_Insert(sorted, to, route) < 0) {
            Py_DECREF(route);
            Py_DECREF(sorted);
            return NULL;
        }
        Py_DECREF(route);
    }
    PyObject *result = PyList_GET_SIZE(sorted) == 0 ? NULL : PyList_AsTuple(sorted);
    Py_DECREF(sorted);
    return result;
}

/* One offered extension: extensions[name] = {}. 0, or -1. */
static int
offer(PyObject *extensions, PyObject *name)
{
    PyObject *details = extensions == NULL ? NULL : PyDict_New();
    int result = details == NULL ? -1 : PyDict_SetItem(extensions, name, details);
    Py_XDECREF(details);
    return result;
}

/* What the scopes copy. 0, or -1. */
static int
make_extensions(Factory *factory)
{
    const State *state = factory->state;
    PyObject *both = factory->extensions_10 = PyDict_New();
    if (offer(both, state->names.pathsend) < 0 || offer(both, state->names.zerocopysend) < 0 ||
        (factory->on_debug != NULL && offer(both, state->names.debug) < 0))
        return -1;
    factory->extensions_11 = PyDict_Copy(both);
    return offer(factory->extensions_11, state->names.http_response_trailers) < 0 ||
                   offer(factory->extensions_11, state->names.early_hint) < 0
               ? -1
               : 0;
}

/* What the scopes and messages are copied from. 0, or -1. */
static int
make_templates(Factory *factory)
{
    const State *state = factory->state;
    if (make_extensions(factory) < 0)
        return -1;
    factory->asgi = scope_asgi(state);
    factory->root_path_bytes = PyUnicode_AsUTF8String(factory->root_path);
    factory->body_message = PyDict_New();
    factory->receive_message = PyDict_New();
    if (factory->receive_message == NULL ||
        PyDict_SetItem(factory->receive_message, state->names.type, state->names.websocket_receive) < 0 ||
        PyDict_SetItem(factory->receive_message, state->names.text, Py_None) < 0 ||
        PyDict_SetItem(factory->receive_message, state->names.bytes, Py_None) < 0)
        return -1;
    if (factory->asgi == NULL || factory->root_path_bytes == NULL || factory->body_message == NULL ||
        PyDict_SetItem(factory->body_message, state->names.type, state->names.http_request) < 0 ||
        PyDict_SetItem(factory->body_message, state->names.body, state->empty_bytes) < 0)
        return -1;
    return PyDict_SetItem(factory->body_message, state->names.more_body, Py_False);
}

static PyObject *
none_as_null(PyObject *value)
{
    return value == Py_None ? NULL : Py_XNewRef(value);
}

static Factory *
factory_allocate(PyTypeObject *type)
{
    Factory *factory = (Factory *)type->tp_alloc(type, 0);
    if (factory == NULL)
        return NULL;
    list_init(&factory->connections);
    for (int kind = 0; kind < DEADLINE_KINDS; kind++)
        list_init(&factory->deadlines[kind]);
    list_init(&factory->stalls);
    list_init(&factory->idles);
    list_init(&factory->cycles);
    factory->state = state_of_type(type);
    factory->module = Py_XNewRef(PyType_GetModule(type));
    return factory;
}

/* Whether the arguments that must be given are, and are of the right type. Sets an exception if not. */
static bool
check_arguments(PyObject *loop, PyObject *context, PyObject *state, PyObject *on_app_error, PyObject *on_reject)
{
    if (loop == NULL || context == NULL || state == NULL || on_app_error == NULL || on_reject == NULL)
        PyErr_SetString(PyExc_TypeError, "ProtocolFactory() needs loop, context, state, on_app_error and on_reject");
    else if (context != Py_None && !PyContext_CheckExact(context))
        PyErr_SetString(PyExc_TypeError, "context must be a contextvars.Context or None");
    else if (state != Py_None && !PyDict_Check(state))
        PyErr_SetString(PyExc_TypeError, "state must be a dict or None");
    else
        return true;
    return false;
}

/* Fills a new factory. 0, or -1. */
static int
take_arguments(Factory *factory, PyObject *args, PyObject *kwargs)
{
    static char *const names[] = {"app",          "loop",         "context",     "state",        "scheme",
                                  "root_path",    "headers",      "server_header", "date_header", "on_app_error",
                                  "on_reject",    "access",       "max_fd",      "on_crowded",   "underscore_headers",
                                  "websocket",    "tls_info",     "proxy",       "static",       "on_debug",
                                  "figures",      "duration_bounds_us", "size_bounds_bytes", "request_id_field",
                                  "make_traceparent", "http2", "http2_cleartext", NULL};
    PyObject *app, *loop = NULL, *context = NULL, *state = NULL, *scheme = NULL, *root_path = NULL;
    PyObject *headers = NULL, *on_app_error = NULL, *on_reject = NULL, *access = Py_None;
    PyObject *on_crowded = Py_None, *websocket = Py_None, *tls_info = Py_None, *proxy = Py_None;
    PyObject *static_routes = NULL, *on_debug = Py_None, *figures = NULL, *duration_bounds = NULL, *size_bounds = NULL;
    PyObject *request_id_field = NULL;
    const char *underscore_headers = "safe";
    int server_header = 1, date_header = 1, max_fd = 0, make_traceparent = 0, http2_alpn = 0, http2_cleartext = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOUUOppOOOiOsOOOOOOOOOppp:ProtocolFactory", (char **)names, &app, &loop,
                                     &context, &state, &scheme, &root_path, &headers, &server_header, &date_header,
                                     &on_app_error, &on_reject, &access, &max_fd, &on_crowded, &underscore_headers,
                                     &websocket, &tls_info, &proxy, &static_routes, &on_debug, &figures, &duration_bounds,
                                     &size_bounds, &request_id_field, &make_traceparent, &http2_alpn, &http2_cleartext) ||
        !check_arguments(loop, context, state, on_app_error, on_reject) ||
        figures_take(&factory->figures, figures, duration_bounds, size_bounds) < 0 ||
        trace_take(&factory->trace, request_id_field, make_traceparent) < 0)
        return -1;
    int underscores = fields_underscores(underscore_headers);
    if (underscores < 0)
        return -1;
    factory->app = Py_NewRef(app);
    factory->loop = Py_NewRef(loop);
    factory->context = none_as_null(context);
    factory->lifespan_state = none_as_null(state);
    factory->on_app_error = Py_NewRef(on_app_error);
    factory->on_reject = Py_NewRef(on_reject);
    if (Py_IS_TYPE(access, factory->state->accesslog_type))
        factory->access_log = (AccessLog *)Py_NewRef(access);
    else
        factory->access = none_as_null(access);
    factory->on_crowded = none_as_null(on_crowded);
    factory->websocket = none_as_null(websocket);
    factory->tls_info = none_as_null(tls_info);
    factory->proxy = none_as_null(proxy);
    factory->on_debug = none_as_null(on_debug);
    factory->static_routes = sorted_routes(static_routes);
    if (factory->static_routes == NULL && PyErr_Occurred())
        return -1;
    factory->crowded_fd = max_fd > 0 && factory->on_crowded != NULL ? max_fd : INT_MAX;
    factory->scheme = scheme != NULL ? Py_NewRef(scheme) : PyUnicode_InternFromString("http");
    factory->root_path = root_path != NULL ? Py_NewRef(root_path) : PyUnicode_FromString("");
    factory->server_header = server_header != 0;
    factory->date_header = date_header != 0;
    factory->underscores = (uint8_t)underscores;
    factory->fixed_fields = encode_fields(headers);
    factory->http2_alpn = http2_alpn != 0;
    factory->http2_cleartext = http2_cleartext != 0;
    return factory->scheme == NULL || factory->root_path == NULL || factory->fixed_fields == NULL ? -1 : 0;
}

/* 0, or -1 with an exception. */
static int
make_http2(Factory *factory)
{
    if (!factory->http2_alpn && !factory->http2_cleartext)
        return 0;
    factory->http2 = http2_shared_new(factory);
    return factory->http2 == NULL ? -1 : 0;
}

static PyObject *
factory_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Factory *factory = factory_allocate(type);
    PyObject *own = kwargs == NULL ? PyDict_New() : PyDict_Copy(kwargs);
    if (factory == NULL || own == NULL || limits_take(&factory->limits, own) < 0 ||
        take_arguments(factory, args, own) < 0 || make_templates(factory) < 0 || make_http2(factory) < 0 ||
        task_prepare(factory) < 0)
        Py_CLEAR(factory);
    Py_XDECREF(own);
    return (PyObject *)factory;
}

/* ---- called ---- */

static PyObject *
factory_call(PyObject *self, PyObject *args, PyObject *kwargs)
{
    Factory *factory = (Factory *)self;
    if (PyTuple_GET_SIZE(args) != 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0)) {
        PyErr_SetString(PyExc_TypeError, "a ProtocolFactory is called without arguments");
        return NULL;
    }
    return connection_new(factory);
}

/* ---- ticked ---- */

static PyObject *
factory_tick(PyObject *self, PyObject *unused)
{
    Factory *factory = (Factory *)self;
    (void)unused;
    if (deadline_enforce(factory) < 0)
        return NULL;
    PyObject *list = factory_open_connections(factory);
    if (list == NULL)
        return NULL;
    int64_t now_ms = factory_now_ms();
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        Connection *connection = (Connection *)PyList_GET_ITEM(list, i);
        connection_poll_paused(connection);
        if (connection->http2 != NULL)
            http2_look(connection, now_ms);
    }
    Py_DECREF(list);
    Py_RETURN_NONE;
}

/* ---- closed ---- */

static PyObject *
factory_close(PyObject *self, PyObject *unused)
{
    Factory *factory = (Factory *)self;
    (void)unused;
    if (factory->connection_count > 0) {
        PyErr_Format(PyExc_RuntimeError, "close() with %zd open connections", factory->connection_count);
        return NULL;
    }
    factory->closed = true;
    task_release_spares(factory);
    cycle_clear_free(factory);
    pool_clear(&factory->pool);
    Py_RETURN_NONE;
}

static PyObject *
factory_count_states(PyObject *self, PyObject *unused)
{
    (void)unused;
    account_connections((Factory *)self);
    Py_RETURN_NONE;
}

static PyObject *
factory_get_connections(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(((Factory *)self)->connection_count);
}

static PyObject *
factory_get_in_flight(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(((Factory *)self)->in_flight_count);
}

static PyObject *
factory_get_served(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Factory *)self)->served);
}

static PyObject *
factory_get_refused(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Factory *)self)->refused);
}

/* ---- type ---- */

static int
factory_traverse(PyObject *self, visitproc visit, void *arg)
{
    Factory *factory = (Factory *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(factory->module);
    Py_VISIT(factory->loop);
    Py_VISIT(factory->app);
    Py_VISIT(factory->context);
    Py_VISIT(factory->lifespan_state);
    Py_VISIT(factory->on_app_error);
    Py_VISIT(factory->on_reject);
    Py_VISIT(factory->access);
    Py_VISIT(factory->access_log);
    Py_VISIT(factory->on_empty);
    Py_VISIT(factory->on_crowded);
    Py_VISIT(factory->websocket);
    Py_VISIT(factory->tls_info);
    Py_VISIT(factory->proxy);
    Py_VISIT(factory->on_debug);
    Py_VISIT(factory->static_routes);
    Py_VISIT(factory->extensions_10);
    Py_VISIT(factory->extensions_11);
    Py_VISIT(factory->asgi);
    Py_VISIT(factory->body_message);
    Py_VISIT(factory->receive_message);
    Py_VISIT(factory->free_cycles); /* the next ones through Cycle.next */
    for (Parked *parked = factory->spares; parked != NULL; parked = parked->next)
        Py_VISIT(parked);
    for (Link *link = factory->cycles.next; link != &factory->cycles; link = link->next)
        Py_VISIT(LIST_OWNER(link, Cycle, in_flight));
    return 0;
}

static int
factory_clear(PyObject *self)
{
    Factory *factory = (Factory *)self;
    factory->closed = true;
    while (!list_empty(&factory->cycles)) {
        Link *link = factory->cycles.next;
        list_remove(link);
        Py_DECREF(LIST_OWNER(link, Cycle, in_flight));
    }
    Parked *parked;
    while ((parked = task_pop_spare(factory)) != NULL)
        Py_DECREF(parked);
    cycle_clear_free(factory);
    Py_CLEAR(factory->loop);
    Py_CLEAR(factory->app);
    Py_CLEAR(factory->context);
    Py_CLEAR(factory->lifespan_state);
    Py_CLEAR(factory->on_app_error);
    Py_CLEAR(factory->on_reject);
    Py_CLEAR(factory->access);
    Py_CLEAR(factory->access_log);
    Py_CLEAR(factory->on_empty);
    Py_CLEAR(factory->on_crowded);
    Py_CLEAR(factory->websocket);
    Py_CLEAR(factory->tls_info);
    Py_CLEAR(factory->proxy);
    Py_CLEAR(factory->on_debug);
    Py_CLEAR(factory->static_routes);
    return 0;
}

static void
factory_dealloc(PyObject *self)
{
    Factory *factory = (Factory *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    factory_clear(self);
    CHECK(list_empty(&factory->connections));
    pool_clear(&factory->pool);
    http2_shared_free(factory->http2);
    factory->http2 = NULL;
    figures_release(&factory->figures);
    trace_clear(&factory->trace);
    Py_CLEAR(factory->scheme);
    Py_CLEAR(factory->root_path);
    Py_CLEAR(factory->root_path_bytes);
    Py_CLEAR(factory->asgi);
    Py_CLEAR(factory->extensions_10);
    Py_CLEAR(factory->extensions_11);
    Py_CLEAR(factory->body_message);
    Py_CLEAR(factory->receive_message);
    Py_CLEAR(factory->fixed_fields);
    Py_CLEAR(factory->module);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef factory_methods[] = {
    {"tick", factory_tick, METH_NOARGS, "Enforce deadlines. Call once a second."},
    {"drain", (PyCFunction)(void (*)(void))factory_drain, METH_VARARGS | METH_KEYWORDS,
     "drain(on_empty, *, grace_ms=0): finish what is in flight."},
    {"end_streams", factory_end_streams, METH_NOARGS, "Tell endless responses that their client is gone; how many."},
    {"abort", factory_abort, METH_NOARGS, "Cut every connection; how many requests were in flight."},
    {"count_states", factory_count_states, METH_NOARGS, "Count the open connections by what they do."},
    {"close", factory_close, METH_NOARGS, "Let go of the spare tasks and the free lists."},
    {NULL},
};

static PyGetSetDef factory_getset[] = {
    {"connections", factory_get_connections, NULL, "Open connections.", NULL},
    {"in_flight", factory_get_in_flight, NULL, "Requests given to the app and not finished.", NULL},
    {"served", factory_get_served, NULL, "Requests finished since the start.", NULL},
    {"refused", factory_get_refused, NULL, "Requests and connections answered 503: limit_concurrency, limit_connections.", NULL},
    {NULL},
};

static PyType_Slot factory_slots[] = {
    {Py_tp_new, factory_new},
    {Py_tp_dealloc, factory_dealloc},
    {Py_tp_traverse, factory_traverse},
    {Py_tp_clear, factory_clear},
    {Py_tp_call, factory_call},
    {Py_tp_methods, factory_methods},
    {Py_tp_getset, factory_getset},
    {Py_tp_doc, "Makes connections and holds what they share. See shardserve/_native.pyi."},
    {0, NULL},
};

PyType_Spec factory_spec = {
    .name = "shardserve._native.ProtocolFactory",
    .basicsize = sizeof(Factory),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = factory_slots,
};
