/* Connection: made, and its type. See connection.h for the files that hold the rest. */
#include "connection.h"

#include "request.h"
#include "scope.h"
#include "websocket.h"

#ifdef SHARDSERVE_DEBUG
void
connection_check(const Connection *connection)
{
    CHECK(connection->receiving == NULL || connection->receiving == connection->current);
    CHECK(connection->current == NULL || connection->current->stream == (PyObject *)connection);
    CHECK(connection->partial_line == NULL || connection->input == INPUT_LINE);
    CHECK(connection->incoming == NULL || connection->input == INPUT_HEAD);
    CHECK(connection->fd < 0 || connection->transport != NULL);
    CHECK(!connection->head_open || connection->current != NULL);
    /* Whoever has nothing running waits for the client, and not for ever. */
    CHECK(connection->current != NULL || connection->deadline != DEADLINE_NONE || connection->transport == NULL ||
          connection->closing || connection->close_after || connection->running || connection->feeding ||
          connection->input_ended || connection->unparsed != NULL || connection->corked || connection->resume_scheduled);
    size_t total = 0;
    const Block *block = connection->out.block;
    for (int i = 0; block != NULL && i < block->segments; i++)
        total += block->segment[i].length;
    CHECK(total == connection->out.total);
    const WebSocket *websocket = connection->websocket;
    CHECK(websocket == NULL || (websocket->accepted && connection->receiving == NULL && connection->incoming == NULL));
    CHECK(websocket == NULL || websocket->state != WS_CLOSED || connection->close_after || connection->closing ||
          connection->transport == NULL);
    CHECK(list_empty((Link *)&connection->idle_timer) || websocket != NULL);
}
#endif

PyObject *
connection_new(Factory *factory)
{
    Connection *connection = PyObject_GC_New(Connection, factory->state->connection_type);
    if (connection == NULL)
        return NULL;
    memset((char *)connection + sizeof(PyObject), 0, sizeof(Connection) - sizeof(PyObject));
    connection->factory = (Factory *)Py_NewRef(factory);
    connection->out.pool = &factory->pool;
    connection->fd = -1;
    connection->queue_fd = -1;
    connection->content_length = -1;
    list_init(&connection->all);
    list_init(&connection->timer);
    list_init(&connection->stall_timer);
    list_init(&connection->idle_timer);
    PyObject_GC_Track(connection);
    return (PyObject *)connection;
}

/* transport.get_extra_info(name): new reference, NULL with an exception. May run Python. */
static PyObject *
extra_info(const Connection *connection, PyObject *transport, PyObject *name)
{
    return call_method1(transport, connection->factory->state->names.get_extra_info, name);
}

/* ASGI: [host, port], or for a Unix socket [path, None] (server) and nothing (client). Steals `address`, which may
 * be NULL with an exception. New reference, or NULL. */
static PyObject *
asgi_address(PyObject *address, bool server)
{
    PyObject *result = NULL;
    if (address == NULL)
        return NULL;
    if (PyTuple_Check(address) && PyTuple_GET_SIZE(address) >= 2)
        result = PyTuple_GetSlice(address, 0, 2);
    else if (server && PyUnicode_Check(address) && PyUnicode_GET_LENGTH(address) > 0)
        result = PyTuple_Pack(2, address, Py_None);
    else
        result = Py_NewRef(Py_None);
    Py_DECREF(address);
    return result;
}

/* The descriptor of the plain socket below `transport`, -1 if there is none (TLS), or -2 with an exception. */
static int
plain_socket(const Connection *connection, PyObject *transport)
{
    const State *state = connection->factory->state;
    PyObject *tls = extra_info(connection, transport, state->names.ssl_object);
    if (tls == NULL)
        return -2;
    Py_DECREF(tls);
    if (tls != Py_None)
        return -1;
    PyObject *sock = extra_info(connection, transport, state->names.socket);
    if (sock == NULL)
        return -2;
    PyObject *number = sock == Py_None ? PyLong_FromLong(-1) : call_method0(sock, state->names.fileno);
    Py_DECREF(sock);
    long fd = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    if (PyErr_Occurred())
        return -2;
    return fd < 0 || fd > INT_MAX ? -1 : (int)fd;
}

/* The socket, the addresses and the scope's fixed part. 0, or -1. May run Python. */
static int
read_transport(Connection *connection, PyObject *transport, int *socket_fd)
{
    const State *state = connection->factory->state;
    int fd = plain_socket(connection, transport);
    PyObject *server = fd == -2 ? NULL : asgi_address(extra_info(connection, transport, state->names.sockname), true);
    PyObject *client =
        server == NULL ? NULL : asgi_address(extra_info(connection, transport, state->names.peername), false);
    PyObject *base = client == NULL ? NULL : scope_template(connection->factory, client, server);
    Py_XDECREF(server);
    if (base == NULL) {
        Py_XDECREF(client);
        return -1;
    }
    Py_XSETREF(connection->client, client);
    Py_XSETREF(connection->scope_base, base);
    *socket_fd = fd;
    return 0;
}

/* Descriptor numbers are handed out lowest first: this one says that few are left. May run Python. */
static void
report_crowded(const Factory *factory)
{
    PyObject *on_crowded = Py_XNewRef(factory->on_crowded);
    if (on_crowded == NULL)
        return;
    PyObject *result = PyObject_CallNoArgs(on_crowded);
    if (result == NULL)
        PyErr_WriteUnraisable(on_crowded);
    Py_XDECREF(result);
    Py_DECREF(on_crowded);
}

/* There are too many already. The client hears so before it has asked; while it reads that, it does not count. May run
 * Python. */
static void
turn_away(Connection *connection)
{
    if (connection->transport == NULL || connection->closing)
        return;
    connection->turned_away = true;
    connection->factory->turned_away_count++;
    connection->factory->refused++;
    http1_cork(connection);
    connection_reject(connection, 503, "too many connections (limit-connections)");
    http1_uncork(connection);
}

static PyObject *
connection_made(PyObject *self, PyObject *transport)
{
    Connection *connection = (Connection *)self;
    Factory *factory = connection->factory;
    if (connection->transport != NULL || factory->closed) {
        PyErr_SetString(PyExc_RuntimeError, "connection_made() on a connection in use or a closed factory");
        return NULL;
    }
    int fd = -1;
    PyObject *parser = PyObject_CallOneArg(factory->state->HttpRequestParser, self);
    if (parser == NULL || read_transport(connection, transport, &fd) < 0) {
        Py_XDECREF(parser);
        return NULL;
    }
    if (connection->transport != NULL || connection->closing) {
        Py_DECREF(parser);
        PyErr_SetString(PyExc_RuntimeError, "the connection ended inside connection_made()");
        return NULL;
    }
    connection->parser = parser;
    connection->transport = Py_NewRef(transport);
    connection->fd = fd;
    connection->queue_fd = fd;
    list_append(&factory->connections, &connection->all);
    factory->connection_count++;
    deadline_start(connection, DEADLINE_FIRST_BYTE);
    if (UNLIKELY(fd >= factory->crowded_fd))
        report_crowded(factory);
    if (UNLIKELY(factory->connection_count - factory->turned_away_count > factory->limits.connections))
        turn_away(connection);
    connection_check(connection);
    Py_RETURN_NONE;
}

/* ---- type ---- */

static int
connection_traverse(PyObject *self, visitproc visit, void *arg)
{
    Connection *connection = (Connection *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(connection->factory);
    Py_VISIT(connection->transport);
    Py_VISIT(connection->parser);
    Py_VISIT(connection->scope_base);
    Py_VISIT(connection->client);
    Py_VISIT(connection->websocket);
    Py_VISIT(connection->incoming);
    Py_VISIT(connection->current);
    Py_VISIT(connection->partial_line);
    Py_VISIT(connection->unparsed);
    Py_VISIT(connection->write_futures);
    return 0;
}

static int
connection_clear(PyObject *self)
{
    Connection *connection = (Connection *)self;
    connection_close_output(connection);
    connection->receiving = NULL;
    connection->head_open = false;
    writer_clear(&connection->out);
    Py_CLEAR(connection->transport);
    Py_CLEAR(connection->parser);
    Py_CLEAR(connection->scope_base);
    Py_CLEAR(connection->client);
    Py_CLEAR(connection->websocket);
    Py_CLEAR(connection->incoming);
    Py_CLEAR(connection->current);
    Py_CLEAR(connection->partial_line);
    Py_CLEAR(connection->unparsed);
    Py_CLEAR(connection->write_futures);
    return 0;
}

static void
connection_dealloc(PyObject *self)
{
    Connection *connection = (Connection *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    connection_leave_lists(connection);
    if (connection->weak_list != NULL)
        PyObject_ClearWeakRefs(self); /* runs callbacks: nobody may find us in a list by then */
    connection_clear(self);
    Py_CLEAR(connection->factory);
    type->tp_free(self);
    Py_DECREF(type);
}

/* For people who look at a stuck worker. */
static PyObject *
connection_repr(PyObject *self)
{
    const Connection *connection = (Connection *)self;
    const Cycle *current = connection->current;
    Py_ssize_t unparsed = connection->unparsed == NULL ? 0 : PyBytes_GET_SIZE(connection->unparsed) - connection->unparsed_at;
    return PyUnicode_FromFormat("<Connection of %S fd %d%s%s%s%s%s%s%s%s%s, %zd bytes unparsed, %zd unsent, response %d>",
                                connection->client == NULL ? Py_None : connection->client, connection->fd,
                                current == NULL ? " idle" : current->started ? " busy" : " queued",
                                connection->websocket != NULL ? " websocket" : "",
                                connection->incoming != NULL ? " head" : "", connection->receiving != NULL ? " body" : "",
                                connection->discarding ? " discarding" : "", connection->reading_paused ? " paused" : "",
                                connection->input_ended ? " half-closed" : "", connection->lingering ? " lingering" : "",
                                connection->transport == NULL ? " lost" : connection->closing ? " closing" : "", unparsed,
                                (Py_ssize_t)connection->out.total, current == NULL ? 0 : (int)current->response);
}

static PyMethodDef connection_methods[] = {
    {"connection_made", connection_made, METH_O, "asyncio.Protocol: the transport is there."},
    {"data_received", connection_data_received, METH_O, "asyncio.Protocol: bytes from the client."},
    {"eof_received", connection_eof_received, METH_NOARGS, "asyncio.Protocol: True keeps a half-closed connection."},
    {"connection_lost", connection_lost, METH_O, "asyncio.Protocol: the end."},
    {"pause_writing", http1_pause_writing, METH_NOARGS, "asyncio.Protocol: the transport's buffer is full."},
    {"resume_writing", http1_resume_writing, METH_NOARGS, "asyncio.Protocol: it has room again."},
    {"on_message_begin", request_on_message_begin, METH_NOARGS, "httptools"},
    {"on_url", request_on_url, METH_O, "httptools"},
    {"on_header", (PyCFunction)(void (*)(void))request_on_header, METH_FASTCALL, "httptools"},
    {"on_headers_complete", request_on_headers_complete, METH_NOARGS, "httptools"},
    {"on_body", request_on_body, METH_O, "httptools"},
    {"on_message_complete", request_on_message_complete, METH_NOARGS, "httptools"},
    {NULL},
};

static PyMemberDef connection_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Connection, weak_list), READONLY, NULL},
    {NULL},
};

static PyType_Slot connection_slots[] = {
    {Py_tp_dealloc, connection_dealloc},
    {Py_tp_traverse, connection_traverse},
    {Py_tp_clear, connection_clear},
    {Py_tp_repr, connection_repr},
    {Py_tp_methods, connection_methods},
    {Py_tp_members, connection_members},
    {Py_tp_doc, "One HTTP/1.1 connection. Made by ProtocolFactory only."},
    {0, NULL},
};

PyType_Spec connection_spec = {
    .name = "shardserve._native.Connection",
    .basicsize = sizeof(Connection),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = connection_slots,
};
