/* Connection: the object and its type. See connection.h for the files that hold the rest. */
#include "connection.h"

#include "arrival.h"
#include "file.h"
#include "http2.h"
#include "output.h"
#include "request.h"
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
    CHECK(connection->file == NULL || (connection->current != NULL && !connection->head_open));
    /* Whoever has nothing running waits for the client, and not for ever. */
    CHECK(connection->current != NULL || connection->deadline != DEADLINE_NONE || connection->transport == NULL ||
          (connection->http2 != NULL && http2_stream_count(connection) > 0) ||
          connection->closing || connection->close_after || connection->running || connection->feeding ||
          connection->input_ended || connection->unparsed != NULL || connection->corked || connection->resume_scheduled);
    size_t total = 0;
    const Block *block = connection->out.block;
    for (int i = 0; block != NULL && i < block->segments; i++)
        total += block->segment[i].length;
    CHECK(total == connection->out.total);
    if (connection->http2 != NULL)
        http2_check(connection);
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
    Py_VISIT(connection->announced);
    Py_VISIT(connection->tls_version);
    Py_VISIT(connection->websocket);
    Py_VISIT(connection->incoming);
    Py_VISIT(connection->current);
    Py_VISIT(connection->partial_line);
    Py_VISIT(connection->unparsed);
    Py_VISIT(connection->write_futures);
    return connection->http2 == NULL ? 0 : http2_traverse(connection, visit, arg);
}

static int
connection_clear(PyObject *self)
{
    Connection *connection = (Connection *)self;
    connection_close_output(connection);
    connection->receiving = NULL;
    connection->head_open = false;
    writer_clear(&connection->out);
    file_drop(connection);
    http2_free(connection);
    Py_CLEAR(connection->transport);
    Py_CLEAR(connection->parser);
    Py_CLEAR(connection->scope_base);
    Py_CLEAR(connection->client);
    Py_CLEAR(connection->announced);
    Py_CLEAR(connection->tls_version);
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
    return PyUnicode_FromFormat("<Connection of %S fd %d%s%s%s%s%s%s%s%s%s%s, %zd bytes unparsed, %zd unsent, response %d>",
                                connection->client == NULL ? Py_None : connection->client, connection->fd,
                                current == NULL ? " idle" : current->started ? " busy" : " queued",
                                connection->http2 != NULL ? " http2" : "",
                                connection->websocket != NULL ? " websocket" : "",
                                connection->incoming != NULL ? " head" : "", connection->receiving != NULL ? " body" : "",
                                connection->discarding ? " discarding" : "", connection->reading_paused ? " paused" : "",
                                connection->input_ended ? " half-closed" : "", connection->lingering ? " lingering" : "",
                                connection->transport == NULL ? " lost" : connection->closing ? " closing" : "", unparsed,
                                (Py_ssize_t)connection->out.total, current == NULL ? 0 : (int)current->response);
}

static PyMethodDef connection_methods[] = {
    {"set_addresses", (PyCFunction)(void (*)(void))arrival_set_addresses, METH_VARARGS | METH_KEYWORDS,
     "set_addresses(client, server, scheme=None): before connection_made(): what a PROXY header said."},
    {"connection_made", arrival_connection_made, METH_O, "asyncio.Protocol: the transport is there."},
    {"data_received", connection_data_received, METH_O, "asyncio.Protocol: bytes from the client."},
    {"eof_received", connection_eof_received, METH_NOARGS, "asyncio.Protocol: True keeps a half-closed connection."},
    {"connection_lost", connection_lost, METH_O, "asyncio.Protocol: the end."},
    {"pause_writing", output_pause_writing, METH_NOARGS, "asyncio.Protocol: the transport's buffer is full."},
    {"resume_writing", output_resume_writing, METH_NOARGS, "asyncio.Protocol: it has room again."},
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
    {Py_tp_doc, "One connection: HTTP/1.1, HTTP/2 or WebSocket. Made by ProtocolFactory only."},
    {0, NULL},
};

PyType_Spec connection_spec = {
    .name = "shardserve._native.Connection",
    .basicsize = sizeof(Connection),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = connection_slots,
};
