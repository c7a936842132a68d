/* Connection, the way in: transport -> httptools -> queue of cycles -> app. See connection.h.
 *
 * In the order bytes move: connection_made, data_received, the parser's callbacks, the queue, eof_received,
 * connection_lost. httptools decides what is a request; what it cannot know is checked in on_headers_complete.
 * The parser's callbacks only record: the app never runs below feed_data.
 */
#include "connection.h"

#include "await.h"
#include "chars.h"
#include "line.h"
#include "request.h"
#include "scope.h"

#include <sys/socket.h>

/* Bytes parsed at a time: what one connection can have parsed ahead of its running request. */
#define SLICE_BYTES 16384
#define BODY_SLICE_BYTES 262144
/* A head that is still incomplete after this many bytes is refused (431). */
#define HEAD_LIMIT_BYTES 65536
/* How much of an unwanted request body is read to keep the connection. */
#define DISCARD_LIMIT_BYTES (1 << 20)
#define LINGER_MS 5000

static PyObject *connection_resume(PyObject *self, PyObject *unused);

/* ---- small things ---- */

void
connection_call_transport(Connection *connection, PyObject *name)
{
    if (connection->transport == NULL)
        return;
    PyObject *transport = Py_NewRef(connection->transport);
    PyObject *result = call_method0(transport, name);
    if (result == NULL)
        PyErr_WriteUnraisable(transport);
    Py_XDECREF(result);
    Py_DECREF(transport);
}

void
connection_start_idle_timer(Connection *connection)
{
    Factory *factory = connection->factory;
    connection->deadline_ms = factory_now_ms() + factory->keep_alive_ms;
    list_append(&factory->idle, &connection->timer);
}

void
connection_schedule_resume(Connection *connection)
{
    const State *state = connection->factory->state;
    if (connection->resume_scheduled || connection->transport == NULL)
        return;
    static PyMethodDef resume = {"_resume", connection_resume, METH_NOARGS, NULL};
    PyObject *callback = PyCFunction_New(&resume, (PyObject *)connection);
    PyObject *handle = callback == NULL ? NULL : call_method1(connection->factory->loop, state->names.call_soon, callback);
    if (handle == NULL)
        PyErr_WriteUnraisable((PyObject *)connection);
    else
        connection->resume_scheduled = true;
    Py_XDECREF(callback);
    Py_XDECREF(handle);
}

/* Whether parsing must wait for the app. */
static bool
must_hold(const Connection *connection)
{
    if (connection->receiving != NULL)
        return connection->receiving->body_bytes > CYCLE_BODY_HIGH_BYTES;
    return connection->head != NULL;
}

void
connection_adjust_reading(Connection *connection)
{
    const State *state = connection->factory->state;
    bool pause = (connection->unparsed != NULL || (connection->receiving != NULL && must_hold(connection))) &&
                 !connection->lingering;
    if (pause == connection->reading_paused || connection->closing || connection->input_ended)
        return;
    connection->reading_paused = pause;
    connection_call_transport(connection, pause ? state->names.pause_reading : state->names.resume_reading);
}

bool
connection_is_idle(const Connection *connection)
{
    if (connection->head != NULL || connection->incoming != NULL || connection->unparsed != NULL ||
        connection->discarding || connection->raw_body_left > 0)
        return false;
    /* A request may already be in the socket. */
    char byte;
    return connection->fd < 0 || recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}

#ifdef SHARDSERVE_DEBUG
void
connection_check(const Connection *connection)
{
    CHECK((connection->head == NULL) == (connection->tail == NULL));
    CHECK(connection->receiving == NULL || connection->receiving == connection->tail);
    CHECK(connection->tail == NULL || connection->tail->next == NULL);
    CHECK(connection->fd < 0 || connection->transport != NULL);
    CHECK(!connection->head_open || connection->head != NULL);
    for (const Cycle *cycle = connection->head; cycle != NULL; cycle = cycle->next) {
        CHECK(cycle->stream == (PyObject *)connection);
        CHECK(cycle == connection->head || !cycle->started);
    }
    size_t total = 0;
    const Block *block = connection->out.block;
    for (int i = 0; block != NULL && i < block->segments; i++)
        total += block->segment[i].length;
    CHECK(total == connection->out.total);
}
#endif

/* ---- connection_made ---- */

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
    connection->content_length = -1;
    list_init(&connection->all);
    list_init(&connection->timer);
    PyObject_GC_Track(connection);
    return (PyObject *)connection;
}

static PyObject *
extra_info(Connection *connection, PyObject *name)
{
    return call_method1(connection->transport, connection->factory->state->names.get_extra_info, name);
}

/* ASGI: [host, port], or for a Unix socket [path, None] (server) and nothing (client). New reference. */
static PyObject *
asgi_address(PyObject *address, bool server)
{
    if (address == NULL)
        return NULL;
    if (PyTuple_Check(address) && PyTuple_GET_SIZE(address) >= 2)
        return PyTuple_GetSlice(address, 0, 2);
    if (server && PyUnicode_Check(address) && PyUnicode_GET_LENGTH(address) > 0)
        return PyTuple_Pack(2, address, Py_None);
    return Py_NewRef(Py_None);
}

/* The socket, the addresses and the scope's fixed part. 0, or -1. */
static int
read_transport(Connection *connection)
{
    const State *state = connection->factory->state;
    PyObject *server = NULL;
    PyObject *number = NULL;
    int result = -1;
    PyObject *sock = extra_info(connection, state->names.socket);
    PyObject *peername = extra_info(connection, state->names.peername);
    PyObject *sockname = extra_info(connection, state->names.sockname);
    connection->client = asgi_address(peername, false);
    server = asgi_address(sockname, true);
    if (sock == NULL || connection->client == NULL || server == NULL)
        goto done;
    if (sock != Py_None) {
        number = call_method0(sock, state->names.fileno);
        if (number == NULL)
            goto done;
        connection->fd = (int)PyLong_AsLong(number);
        if (connection->fd == -1 && PyErr_Occurred())
            goto done;
    }
    connection->scope_base = scope_template(connection->factory, connection->client, server);
    result = connection->scope_base == NULL ? -1 : 0;
done:
    Py_XDECREF(sock);
    Py_XDECREF(peername);
    Py_XDECREF(sockname);
    Py_XDECREF(server);
    Py_XDECREF(number);
    return result;
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
    connection->transport = Py_NewRef(transport);
    connection->parser = PyObject_CallOneArg(factory->state->HttpRequestParser, self);
    if (connection->parser == NULL || read_transport(connection) < 0) {
        Py_CLEAR(connection->transport);
        connection->fd = -1;
        return NULL;
    }
    list_append(&factory->connections, &connection->all);
    factory->connection_count++;
    connection_start_idle_timer(connection);
    connection_check(connection);
    Py_RETURN_NONE;
}

/* ---- data_received ---- */

/* Lets go of a cycle that the app has not seen, or hears of its end. Steals the reference. */
static void
drop_cycle(Cycle *cycle)
{
    if (cycle == NULL)
        return;
    cycle_disconnect(cycle);
    cycle_release(cycle);
}

static void
drop_incoming(Connection *connection)
{
    Cycle *cycle = connection->incoming;
    connection->incoming = NULL;
    drop_cycle(cycle);
}

/* Drops the queue from *at on. */
static void
drop_queue(Connection *connection, Cycle **at, Cycle *new_tail)
{
    Cycle *cycle = *at;
    *at = NULL;
    connection->tail = new_tail;
    connection->receiving = NULL;
    while (cycle != NULL) {
        Cycle *next = cycle->next;
        cycle->next = NULL;
        drop_cycle(cycle);
        cycle = next;
    }
}

/* Answers a request that never reaches the app, once what came before it is answered; then closes. */
static void
reject(Connection *connection, int status, const char *reason)
{
    Cycle *broken = connection->receiving;
    drop_incoming(connection);
    Py_CLEAR(connection->unparsed);
    connection->raw_body_left = 0;
    if (connection->reject_status == 0) {
        connection->reject_status = status;
        connection->reject_reason = reason;
    }
    if (broken == NULL)
        return;
    /* The body broke off: it is the last of the queue, and the app must not take it for a whole one. */
    if (connection->head == broken && broken->response == RESPONSE_BODY) {
        connection->reject_status = -1; /* too late for another response: just close */
        connection->keep = false;
    }
    if (connection->head == broken && connection->head_open) {
        writer_rollback(&connection->out, connection->head_mark);
        connection->head_open = false;
    }
    Cycle **at = &connection->head;
    Cycle *before = NULL;
    while (*at != broken) {
        before = *at;
        at = &before->next;
    }
    drop_queue(connection, at, before);
}

static void
write_rejection(Connection *connection)
{
    Factory *factory = connection->factory;
    int status = connection->reject_status;
    if (connection->close_after)
        return;
    connection->close_after = true;
    connection->discarding = true; /* what is still to come is read and dropped */
    list_remove(&connection->timer);
    if (status < 0)
        return;
    http1_simple_response(connection, status, connection->reject_reason, false, false);
    PyObject *result =
        PyObject_CallFunction(factory->on_reject, "isO", status, connection->reject_reason, connection->client);
    if (result == NULL)
        PyErr_WriteUnraisable(factory->on_reject);
    Py_XDECREF(result);
}

/* feed_data stopped. Returns how many bytes of the slice were parsed, or -1: nothing more will be. */
static Py_ssize_t
parser_stopped(Connection *connection)
{
    const State *state = connection->factory->state;
    PyObject *error = error_take();
    Py_ssize_t parsed = -1;
    if (PyErr_GivenExceptionMatches(error, state->HttpParserUpgrade)) {
        /* We did not ask to upgrade (RFC 9110 §7.8 lets a server ignore it): HTTP goes on behind it. */
        PyObject *args = PyObject_GetAttrString(error, "args");
        if (args != NULL && PyTuple_Check(args) && PyTuple_GET_SIZE(args) == 1)
            parsed = PyLong_AsSsize_t(PyTuple_GET_ITEM(args, 0));
        Py_XDECREF(args);
        if (PyErr_Occurred())
            PyErr_WriteUnraisable((PyObject *)connection);
    }
    Py_DECREF(error);
    if (parsed < 0 && !(connection->tail != NULL && !connection->tail->keep_alive && connection->receiving == NULL)) {
        /* Bytes behind a request that says "close" are never looked at (RFC 9112 §9.6); others are wrong. */
        if (connection->reject_status == 0)
            reject(connection, 400, "Bad Request");
        else
            reject(connection, connection->reject_status, connection->reject_reason);
    }
    return parsed;
}

/* Body bytes of a request whose Upgrade made the parser stop. Returns how many there were, or -1. */
static Py_ssize_t
feed_raw_body(Connection *connection, const char *data, Py_ssize_t length)
{
    Py_ssize_t take = connection->raw_body_left < length ? (Py_ssize_t)connection->raw_body_left : length;
    connection->raw_body_left -= take;
    Cycle *cycle = connection->receiving;
    if (cycle == NULL) {
        if (connection->raw_body_left == 0)
            request_discarded((PyObject *)connection);
        return take; /* answered already */
    }
    Py_INCREF(cycle);
    PyObject *bytes = PyBytes_FromStringAndSize(data, take);
    int fed = bytes == NULL ? -1 : cycle_feed_body(cycle, bytes);
    Py_XDECREF(bytes);
    if (connection->raw_body_left == 0) {
        connection->receiving = NULL;
        cycle_feed_end(cycle);
    }
    cycle_release(cycle);
    return fed < 0 ? -1 : take;
}

/* Parses one slice. Returns how many bytes were taken, or -1: nothing more will be. */
static Py_ssize_t
feed_slice(Connection *connection, PyObject *data, const char *text, Py_ssize_t length)
{
    const State *state = connection->factory->state;
    if (connection->raw_body_left > 0)
        return feed_raw_body(connection, text, length);
    bool between = connection->incoming == NULL && connection->receiving == NULL && !connection->discarding;
    connection->line_at = between ? text : NULL;
    connection->line_used = !between;
    connection->feed_end = text + length;
    PyObject *slice = length == PyBytes_GET_SIZE(data) ? Py_NewRef(data)
                                                       : PyMemoryView_FromMemory((char *)text, length, PyBUF_READ);
    PyObject *result = NULL;
    if (slice != NULL) {
        PyObject *args[2] = {connection->parser, slice};
        result = PyObject_Vectorcall(state->parser_feed, args, 2, NULL);
    }
    Py_XDECREF(slice);
    connection->feed_end = NULL;
    connection->line_at = NULL;
    if (result == NULL)
        return parser_stopped(connection);
    Py_DECREF(result);
    if (connection->incoming != NULL) {
        connection->head_bytes += (size_t)length;
        if (connection->head_bytes > HEAD_LIMIT_BYTES) {
            reject(connection, 431, "Request Header Fields Too Large");
            return -1;
        }
    }
    return length;
}

static void connection_run(Connection *connection);

/* Whether the connection takes no more requests. */
static bool
is_finished(const Connection *connection)
{
    return connection->closing || connection->lingering || connection->transport == NULL ||
           connection->close_after || connection->reject_status != 0 ||
           (connection->tail != NULL && !connection->tail->keep_alive && connection->receiving == NULL);
}

/* Parses `data` (bytes) from `at` on and runs what it brings, holding back what the app is not ready for. */
static void
connection_feed(Connection *connection, PyObject *data, Py_ssize_t at)
{
    const char *text = PyBytes_AS_STRING(data);
    Py_ssize_t end = PyBytes_GET_SIZE(data);
    while (at < end && !is_finished(connection)) {
        if (must_hold(connection)) {
            CHECK(connection->unparsed == NULL);
            connection->unparsed = Py_NewRef(data);
            connection->unparsed_at = at;
            break;
        }
        Py_ssize_t slice = connection->receiving != NULL ? BODY_SLICE_BYTES : SLICE_BYTES;
        if (slice > end - at)
            slice = end - at;
        slice = feed_slice(connection, data, text + at, slice);
        connection_run(connection);
        if (slice < 0)
            break;
        at += slice;
    }
    if (connection->discarding && (connection->discard_left -= end) < 0 && !connection->close_after) {
        connection->close_after = true; /* too much of a body that nobody reads */
        connection->keep = false;
    }
    connection_adjust_reading(connection);
}

static PyObject *
connection_data_received(PyObject *self, PyObject *data)
{
    Connection *connection = (Connection *)self;
    if (!PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "data_received() takes bytes");
        return NULL;
    }
    if (connection->lingering || connection->closing || connection->transport == NULL)
        Py_RETURN_NONE;
    Py_INCREF(connection);
    if (connection->unparsed != NULL || connection->running) {
        /* Not read from a transport of ours, which is paused: keep the order all the same. */
        PyObject *rest = connection->unparsed == NULL
                             ? Py_NewRef(data)
                             : PyBytes_FromStringAndSize(PyBytes_AS_STRING(connection->unparsed) + connection->unparsed_at,
                                                         PyBytes_GET_SIZE(connection->unparsed) - connection->unparsed_at);
        if (connection->unparsed != NULL && rest != NULL)
            PyBytes_Concat(&rest, data);
        if (rest == NULL) {
            Py_DECREF(connection);
            return NULL;
        }
        Py_XSETREF(connection->unparsed, rest);
        connection->unparsed_at = 0;
        connection_schedule_resume(connection);
    }
    else {
        http1_cork(connection);
        connection_feed(connection, data, 0);
        http1_uncork(connection);
    }
    connection_check(connection);
    Py_DECREF(connection);
    Py_RETURN_NONE;
}

/* ---- the queue ---- */

/* Gives the app every request whose turn it is. May run Python. */
static void
connection_run(Connection *connection)
{
    if (connection->running)
        return;
    connection->running = true;
    while (connection->head != NULL && !connection->head->started && !connection->closing &&
           !connection->close_after && connection->transport != NULL) {
        Cycle *cycle = (Cycle *)Py_NewRef(connection->head);
        PyObject *scope = scope_build(cycle, connection->scope_base);
        if (scope != NULL) {
            cycle_start(cycle, scope);
        }
        else {
            /* httptools let the target pass, its URL parser does not. */
            PyErr_Clear();
            connection->receiving = cycle;
            reject(connection, 400, "Bad Request");
        }
        cycle_release(cycle);
        connection_check(connection);
    }
    connection->running = false;
    if (connection->head == NULL && connection->reject_status != 0 && !connection->closing)
        write_rejection(connection);
}

/* From the loop: what waited for a suspended request. */
static PyObject *
connection_resume(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    (void)unused;
    connection->resume_scheduled = false;
    if (connection->transport == NULL || connection->closing)
        Py_RETURN_NONE;
    Py_INCREF(connection);
    http1_cork(connection);
    connection_run(connection);
    PyObject *data = connection->unparsed;
    if (data != NULL && !must_hold(connection)) {
        connection->unparsed = NULL;
        connection_feed(connection, data, connection->unparsed_at);
        Py_DECREF(data);
    }
    if (connection->input_ended && connection->head == NULL && connection->unparsed == NULL)
        connection->close_after = true;
    http1_uncork(connection);
    connection_adjust_reading(connection);
    connection_check(connection);
    Py_DECREF(connection);
    Py_RETURN_NONE;
}

static void
log_access(Connection *connection, Cycle *cycle)
{
    Factory *factory = connection->factory;
    const State *state = factory->state;
    PyObject *status = PyLong_FromLong(cycle->status);
    PyObject *result = NULL;
    if (status != NULL) {
        PyObject *args[6] = {NULL, cycle->client, cycle->method, cycle->target,
                             cycle->version_10 ? state->names.version_10 : state->names.version_11, status};
        result = PyObject_Vectorcall(factory->access, args + 1, 5 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    if (result == NULL)
        PyErr_WriteUnraisable(factory->access);
    Py_XDECREF(status);
    Py_XDECREF(result);
}

void
connection_response_done(Connection *connection, Cycle *cycle)
{
    CHECK(connection->head == cycle);
    connection->head = cycle->next;
    cycle->next = NULL;
    if (connection->tail == cycle)
        connection->tail = NULL;
    connection->head_open = false;
    connection->served_any = true;
    if (connection->receiving == cycle) {
        connection->receiving = NULL;
        connection->discarding = true;
        connection->discard_left = DISCARD_LIMIT_BYTES;
    }
    if (!connection->keep)
        connection->close_after = true;
    Py_CLEAR(cycle->stream);
    if (connection->factory->access != NULL && cycle->status != 0)
        log_access(connection, cycle);
    cycle_release(cycle); /* the queue's */
    if (connection->close_after)
        return;
    if (connection->head == NULL && connection->incoming == NULL && !connection->discarding)
        connection_start_idle_timer(connection);
    if (!connection->running &&
        (connection->head != NULL || connection->unparsed != NULL || connection->reject_status != 0 ||
         connection->input_ended || connection->reading_paused))
        connection_schedule_resume(connection);
}

/* ---- the ways a connection ends ---- */

static void
drop_everything(Connection *connection)
{
    drop_queue(connection, &connection->head, NULL);
    drop_incoming(connection);
    Py_CLEAR(connection->unparsed);
    connection->head_open = false;
}

void
connection_gone(Connection *connection)
{
    connection->fd = -1;
    drop_everything(connection);
    writer_clear(&connection->out);
    futures_wake(connection->factory->state, &connection->write_futures);
}

void
connection_close(Connection *connection)
{
    const State *state = connection->factory->state;
    bool input_expected = connection->discarding && !connection->input_ended;
    drop_everything(connection);
    if (input_expected) {
        /* RFC 9112 §9.6: close the sending side first, or a reset may destroy the response unread. */
        connection->lingering = true;
        connection->deadline_ms = factory_now_ms() + LINGER_MS;
        list_append(&connection->factory->lingering, &connection->timer);
        connection_call_transport(connection, state->names.write_eof);
        connection->fd = -1;
        if (connection->reading_paused) {
            connection->reading_paused = false;
            connection_call_transport(connection, state->names.resume_reading);
        }
        return;
    }
    connection->closing = true;
    connection->fd = -1;
    list_remove(&connection->timer);
    connection_call_transport(connection, state->names.close);
}

void
connection_abort(Connection *connection)
{
    const State *state = connection->factory->state;
    connection->closing = true;
    connection->fd = -1;
    list_remove(&connection->timer);
    connection_call_transport(connection, state->names.abort);
}

static PyObject *
connection_eof_received(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    (void)unused;
    connection->input_ended = true;
    if (connection->lingering || connection->closing)
        Py_RETURN_FALSE;
    Py_INCREF(connection);
    drop_incoming(connection);
    if (connection->receiving != NULL) {
        /* RFC 9112 §8: an incomplete request; nobody can say what it was to be. */
        connection->keep = false;
        connection_abort(connection);
        connection_gone(connection);
    }
    Cycle *cycle = connection->head;
    Py_XINCREF(cycle);
    while (cycle != NULL) {
        cycle_input_closed(cycle);
        Cycle *next = (Cycle *)Py_XNewRef(cycle->next);
        Py_DECREF(cycle);
        cycle = next;
    }
    bool keep_open = connection->head != NULL || connection->unparsed != NULL;
    if (!keep_open && !connection->closing) {
        connection->closing = true;
        connection->fd = -1;
        list_remove(&connection->timer);
    }
    connection_check(connection);
    Py_DECREF(connection);
    return PyBool_FromLong(keep_open);
}

static PyObject *
connection_lost(PyObject *self, PyObject *error)
{
    Connection *connection = (Connection *)self;
    Factory *factory = connection->factory;
    (void)error;
    if (connection->transport == NULL)
        Py_RETURN_NONE;
    Py_INCREF(connection);
    connection->closing = true;
    list_remove(&connection->timer);
    list_remove(&connection->all);
    factory->connection_count--;
    PyObject *transport = connection->transport;
    PyObject *parser = connection->parser;
    connection->fd = -1;
    connection->transport = NULL;
    connection->parser = NULL;
    connection_gone(connection);
    Py_XDECREF(transport);
    Py_XDECREF(parser);
    connection_check(connection);
    if (factory->draining)
        factory_check_empty(factory);
    Py_DECREF(connection);
    Py_RETURN_NONE;
}

static PyObject *
connection_pause_writing(PyObject *self, PyObject *unused)
{
    (void)unused;
    ((Connection *)self)->write_paused = true;
    Py_RETURN_NONE;
}

static PyObject *
connection_resume_writing(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    (void)unused;
    connection->write_paused = false;
    futures_wake(connection->factory->state, &connection->write_futures);
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
    Py_VISIT(connection->incoming);
    Py_VISIT(connection->head);
    Py_VISIT(connection->unparsed);
    Py_VISIT(connection->write_futures);
    return 0;
}

static int
connection_clear(PyObject *self)
{
    Connection *connection = (Connection *)self;
    connection->fd = -1;
    connection->tail = NULL;
    connection->receiving = NULL;
    connection->head_open = false;
    writer_clear(&connection->out);
    Py_CLEAR(connection->transport);
    Py_CLEAR(connection->parser);
    Py_CLEAR(connection->scope_base);
    Py_CLEAR(connection->client);
    Py_CLEAR(connection->incoming);
    Py_CLEAR(connection->head);
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
    if (connection->weak_list != NULL)
        PyObject_ClearWeakRefs(self);
    if (!list_empty(&connection->all))
        connection->factory->connection_count--;
    list_remove(&connection->timer);
    list_remove(&connection->all);
    connection_clear(self);
    Py_CLEAR(connection->factory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef connection_methods[] = {
    {"connection_made", connection_made, METH_O, "asyncio.Protocol: the transport is there."},
    {"data_received", connection_data_received, METH_O, "asyncio.Protocol: bytes from the client."},
    {"eof_received", connection_eof_received, METH_NOARGS, "asyncio.Protocol: True keeps a half-closed connection."},
    {"connection_lost", connection_lost, METH_O, "asyncio.Protocol: the end."},
    {"pause_writing", connection_pause_writing, METH_NOARGS, "asyncio.Protocol: the transport's buffer is full."},
    {"resume_writing", connection_resume_writing, METH_NOARGS, "asyncio.Protocol: it has room again."},
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
