/* WebSocket over HTTP/2: opened, what comes, what goes, lost. See tunnel.h. */
#include "tunnel.h"

#ifdef SHARDSERVE_NGHTTP2

#include "deadline.h"
#include "output.h"
#include "pieces.h"
#include "websocket.h"

/* ---- opened ---- */

/* The WebSocket's own connection, below which `tunnel` is. NULL with an exception. */
static Connection *
inner_new(Connection *outer, Tunnel *tunnel, Cycle *cycle)
{
    Connection *inner = (Connection *)connection_new(outer->factory);
    if (inner == NULL)
        return NULL;
    inner->transport = Py_NewRef(tunnel);
    inner->tunnelled = true;
    inner->client = Py_NewRef(outer->client);
    inner->scope_base = Py_NewRef(outer->scope_base);
    inner->tls_version = Py_XNewRef(outer->tls_version);
    inner->trusted = outer->trusted;
    inner->served_any = true;
    inner->current = cycle;
    return inner;
}

static Tunnel *
tunnel_new(Connection *outer, Stream *stream)
{
    Tunnel *tunnel = PyObject_GC_New(Tunnel, outer->factory->state->tunnel_type);
    if (tunnel == NULL)
        return NULL;
    memset((char *)tunnel + sizeof(PyObject), 0, sizeof(Tunnel) - sizeof(PyObject));
    tunnel->outer = (Connection *)Py_NewRef(outer);
    tunnel->stream = stream;
    PyObject_GC_Track(tunnel);
    return tunnel;
}

/* What came together with the handshake was taken for a body. */
static void
take_early_input(Tunnel *tunnel, Cycle *cycle)
{
    tunnel->input = cycle->body;
    cycle->body = NULL;
    cycle->body_bytes = 0;
    cycle->body_complete = false;
    if (tunnel->input != NULL || tunnel->stream->input_done)
        stream_note(tunnel->stream);
}

/* Neither of them came to be. Each may be NULL, an exception may be pending. */
static void
open_failed(Tunnel *tunnel, Connection *inner)
{
    PyErr_Clear(); /* MemoryError, if any: the client is told */
    if (tunnel != NULL)
        tunnel->stream = NULL;
    if (inner != NULL) {
        inner->current = NULL; /* it was lent */
        inner->closing = true;
        Py_CLEAR(inner->transport);
        Py_DECREF(inner);
    }
    Py_XDECREF(tunnel);
}

void
tunnel_open(Connection *connection, Stream *stream)
{
    Factory *factory = connection->factory;
    Cycle *cycle = stream->cycle;
    Tunnel *tunnel = tunnel_new(connection, stream);
    Connection *inner = tunnel == NULL ? NULL : inner_new(connection, tunnel, cycle);
    if (inner == NULL || cycle->lane == NULL) { /* no memory; or the collector ran, and the client went */
        open_failed(tunnel, inner);
        if (cycle->lane != NULL)
            request2_refuse(connection, cycle->lane, 500, "out of memory");
        return;
    }
    tunnel->inner = inner;
    inner->forwarded = stream->forwarded;
    list_append(&factory->connections, &inner->all); /* of which it is none: drains and ticks find it there */
    stream->tunnel = tunnel;
    stream->cycle = NULL; /* inner->current */
    Py_SETREF(cycle->stream, Py_NewRef(inner));
    /* Messages of several take turns, whatever their length (RFC 9218 §4.2). */
    const nghttp2_extpri turns = {.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY, .inc = 1};
    (void)nghttp2_session_change_extpri_stream_priority(connection->http2->session, stream->id, &turns, 1);
    Py_INCREF(inner);
    take_early_input(tunnel, cycle);
    inner->running = true;
    websocket_run(inner, cycle);
    inner->running = false;
    connection_check(inner);
    Py_DECREF(inner);
}

int
tunnel_accept(Cycle *cycle, PyObject *fields)
{
    Stream *stream = cycle->lane;
    Factory *factory = cycle->factory;
    HeadFacts facts;
    if (wire2_take_head(stream, cycle, 200, fields, &facts) < 0)
        return -1;
    head2_end(factory, stream->block, &facts, cycle->has_own_id ? NULL : cycle->request_id, -1);
    wire2_give_head(stream, true);
    if (!stream->connection->corked)
        connection_schedule_resume(stream->connection); /* sending it here may run Python */
    cycle->lane = NULL; /* from here on it is the connection's */
    return 0;
}

Connection *
tunnel_denied(Stream *stream)
{
    Connection *inner = stream->tunnel->inner;
    inner->current = NULL;
    inner->closing = true; /* what the client sends is no HTTP/1.1 */
    deadline_stop(inner);
    Py_CLEAR(inner->unparsed);
    return inner;
}

/* ---- what comes ---- */

int
tunnel_feed(Stream *stream, const uint8_t *data, size_t length)
{
    Tunnel *tunnel = stream->tunnel;
    int joined = pieces_add_small(tunnel->outer->factory->state, &tunnel->input, data, length);
    if (joined != 0)
        return joined;
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)length);
    int result = bytes == NULL ? -1 : pieces_add(&tunnel->input, bytes);
    Py_XDECREF(bytes);
    if (result == 0)
        stream_note(stream);
    return result;
}

void
tunnel_taken(Connection *inner, int64_t held)
{
    Tunnel *tunnel = (Tunnel *)inner->transport;
    if (tunnel == NULL || tunnel->stream == NULL || tunnel->owed <= held)
        return;
    stream_consume(tunnel->stream, tunnel->owed - held);
    tunnel->owed = held;
    if (!tunnel->outer->corked)
        connection_schedule_resume(tunnel->outer); /* WINDOW_UPDATE; sending it here may run Python */
}

/* Calls a method of asyncio.Protocol. May run Python. */
static void
tell(Connection *inner, PyObject *result)
{
    if (result == NULL)
        PyErr_WriteUnraisable((PyObject *)inner);
    Py_XDECREF(result);
}

void
tunnel_deliver(Stream *stream)
{
    Tunnel *tunnel = (Tunnel *)Py_NewRef(stream->tunnel);
    Connection *inner = (Connection *)Py_NewRef(tunnel->inner);
    if (!tunnel->paused && tunnel->input != NULL) {
        PyObject *bytes = pieces_take(tunnel->outer->factory->state, &tunnel->input);
        if (bytes == NULL) {
            PyErr_WriteUnraisable((PyObject *)inner);
            connection_abort(inner);
        }
        else {
            tunnel->owed += PyBytes_GET_SIZE(bytes);
            tell(inner, connection_data_received((PyObject *)inner, bytes));
            Py_DECREF(bytes);
        }
        if (inner->unparsed == NULL)
            tunnel_taken(inner, 0);
    }
    stream = tunnel->stream;
    if (stream != NULL && stream->input_done && tunnel->input == NULL && !tunnel->eof_told) {
        tunnel->eof_told = true;
        tell(inner, connection_eof_received((PyObject *)inner, NULL));
    }
    Py_DECREF(inner);
    Py_DECREF(tunnel);
}

/* ---- what goes ---- */

void
tunnel_queued(Stream *stream)
{
    Connection *inner = stream->tunnel->inner;
    if (stream->queued > STREAM_HIGH_BYTES)
        inner->write_paused = true;
}

void
tunnel_writable(Stream *stream)
{
    Connection *inner = (Connection *)Py_NewRef(stream->tunnel->inner);
    /* It may close once nothing is held any more (Connection.close_when_taken). */
    if (inner->write_paused || (inner->close_when_taken && stream->queued == 0))
        tell(inner, output_resume_writing((PyObject *)inner, NULL));
    Py_DECREF(inner);
}

/* Queues bytes-like `data`. 0, or -1 with an exception. */
static int
queue_data(Tunnel *tunnel, PyObject *data)
{
    if (tunnel->stream == NULL || tunnel->stream->ended || tunnel->closed)
        return 0;
    Py_INCREF(data); /* it may be an item of a list that others can change */
    PyObject *bytes = PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);
    Py_DECREF(data);
    int result = bytes == NULL ? -1 : tunnel->stream == NULL ? 0 : stream_queue(tunnel->stream, bytes);
    Py_XDECREF(bytes);
    return result;
}

/* What was queued goes on its way. May run Python. */
static PyObject *
send_queued(Tunnel *tunnel)
{
    if (tunnel->stream != NULL) {
        tunnel_queued(tunnel->stream);
        wire2_continue(tunnel->stream);
        wire2_flush(tunnel->outer);
    }
    Py_RETURN_NONE;
}

static PyObject *
tunnel_write(PyObject *self, PyObject *data)
{
    return queue_data((Tunnel *)self, data) < 0 ? NULL : send_queued((Tunnel *)self);
}

static PyObject *
tunnel_writelines(PyObject *self, PyObject *parts)
{
    PyObject *list = PySequence_Fast(parts, "writelines() takes a list");
    int result = list == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; result == 0 && i < PySequence_Fast_GET_SIZE(list); i++)
        result = queue_data((Tunnel *)self, PySequence_Fast_GET_ITEM(list, i));
    Py_XDECREF(list);
    return result < 0 ? NULL : send_queued((Tunnel *)self);
}

static PyObject *
tunnel_get_write_buffer_size(PyObject *self, PyObject *unused)
{
    const Tunnel *tunnel = (Tunnel *)self;
    (void)unused;
    return PyLong_FromLongLong(tunnel->stream == NULL ? 0 : tunnel->stream->queued);
}

static PyObject *
tunnel_set_write_buffer_limits(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    Py_RETURN_NONE; /* for TLS and files, which a WebSocket has not */
}

/* ---- ended by the WebSocket ---- */

static PyObject *
tunnel_write_eof(PyObject *self, PyObject *unused)
{
    Tunnel *tunnel = (Tunnel *)self;
    (void)unused;
    tunnel->closed = true;
    if (tunnel->stream == NULL || tunnel->stream->ended)
        Py_RETURN_NONE;
    Stream *stream = tunnel->stream;
    stream->ended = true; /* END_STREAM behind what is queued; RST_STREAM(NO_ERROR) if the client goes on */
    if (stream->head_given)
        wire2_continue(stream);
    else
        stream_reset(stream, NGHTTP2_CANCEL);
    wire2_flush(tunnel->outer);
    Py_RETURN_NONE;
}

static PyObject *
tunnel_can_write_eof(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_RETURN_TRUE;
}

static PyObject *
tunnel_abort(PyObject *self, PyObject *unused)
{
    Tunnel *tunnel = (Tunnel *)self;
    (void)unused;
    tunnel->closed = true;
    if (tunnel->stream != NULL) {
        stream_drop_output(tunnel->stream);
        stream_reset(tunnel->stream, NGHTTP2_CANCEL);
        wire2_flush(tunnel->outer);
    }
    Py_RETURN_NONE;
}

static PyObject *
tunnel_pause_reading(PyObject *self, PyObject *unused)
{
    (void)unused;
    ((Tunnel *)self)->paused = true;
    Py_RETURN_NONE;
}

static PyObject *
tunnel_resume_reading(PyObject *self, PyObject *unused)
{
    Tunnel *tunnel = (Tunnel *)self;
    (void)unused;
    tunnel->paused = false;
    if (tunnel->stream != NULL) {
        stream_note(tunnel->stream);
        connection_schedule_resume(tunnel->outer); /* what waits is delivered, WINDOW_UPDATE sent */
    }
    Py_RETURN_NONE;
}

static PyObject *
tunnel_get_extra_info(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    (void)self;
    (void)args;
    if (count < 1 || count > 2) {
        PyErr_SetString(PyExc_TypeError, "get_extra_info() takes a name, and a default");
        return NULL;
    }
    return Py_NewRef(count == 2 ? args[1] : Py_None);
}

/* ---- lost ---- */

/* Lets go of what waits for the WebSocket. */
static void
forget(Tunnel *tunnel)
{
    tunnel->stream = NULL;
    Py_CLEAR(tunnel->input);
}

void
tunnel_lost(Stream *stream)
{
    Tunnel *tunnel = stream->tunnel;
    Connection *inner = (Connection *)Py_NewRef(tunnel->inner);
    stream->tunnel = NULL;
    forget(tunnel);
    if (inner->current != NULL)
        inner->current->lane = NULL;
    tell(inner, connection_lost((PyObject *)inner, Py_None));
    Py_DECREF(inner);
    Py_DECREF(tunnel);
}

void
tunnel_discard(Stream *stream)
{
    Tunnel *tunnel = stream->tunnel;
    if (tunnel == NULL)
        return;
    stream->tunnel = NULL;
    forget(tunnel);
    if (tunnel->inner != NULL && tunnel->inner->current != NULL)
        tunnel->inner->current->lane = NULL;
    Py_DECREF(tunnel);
}

/* ---- type ---- */

static int
tunnel_traverse(PyObject *self, visitproc visit, void *arg)
{
    Tunnel *tunnel = (Tunnel *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(tunnel->outer);
    Py_VISIT(tunnel->inner);
    Py_VISIT(tunnel->input);
    return 0;
}

static int
tunnel_clear(PyObject *self)
{
    Tunnel *tunnel = (Tunnel *)self;
    if (tunnel->stream != NULL)
        return 0; /* its stream clears us, when it is cleared */
    Py_CLEAR(tunnel->outer);
    Py_CLEAR(tunnel->inner);
    Py_CLEAR(tunnel->input);
    return 0;
}

static void
tunnel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    CHECK(((Tunnel *)self)->stream == NULL);
    tunnel_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef tunnel_methods[] = {
    {"get_extra_info", (PyCFunction)(void (*)(void))tunnel_get_extra_info, METH_FASTCALL,
     "get_extra_info(name, default=None): the default."},
    {"write", tunnel_write, METH_O, "write(data): sends bytes as DATA."},
    {"writelines", tunnel_writelines, METH_O, "writelines(list): sends each of them as DATA."},
    {"get_write_buffer_size", tunnel_get_write_buffer_size, METH_NOARGS, "The bytes that wait for windows."},
    {"set_write_buffer_limits", tunnel_set_write_buffer_limits, METH_VARARGS, "Nothing: the limits are fixed."},
    {"can_write_eof", tunnel_can_write_eof, METH_NOARGS, "True."},
    {"write_eof", tunnel_write_eof, METH_NOARGS, "END_STREAM behind what was written."},
    {"close", tunnel_write_eof, METH_NOARGS, "END_STREAM behind what was written."},
    {"abort", tunnel_abort, METH_NOARGS, "RST_STREAM."},
    {"pause_reading", tunnel_pause_reading, METH_NOARGS, "The windows stay as they are."},
    {"resume_reading", tunnel_resume_reading, METH_NOARGS, "They open again."},
    {NULL},
};

static PyType_Slot tunnel_slots[] = {
    {Py_tp_dealloc, tunnel_dealloc},
    {Py_tp_traverse, tunnel_traverse},
    {Py_tp_clear, tunnel_clear},
    {Py_tp_methods, tunnel_methods},
    {Py_tp_doc, "The transport of a WebSocket over HTTP/2: a stream. Made by Connection only."},
    {0, NULL},
};

PyType_Spec http2_tunnel_spec = {
    .name = "shardserve._native.Tunnel",
    .basicsize = sizeof(Tunnel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = tunnel_slots,
};

#endif
