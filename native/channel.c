/* receive() and send(): what the app hears and says. See cycle.h.
 *
 * receive() hands out a waiter, which asks cycle_take_message when it is stepped. send() does its work
 * when it is called. The order of a response is one table, below.
 */
#include "cycle.h"

#include "await.h"
#include "pieces.h"
#include "websocket.h"

#define ILLEGAL 0xff

/* The order of a response (ASGI HTTP spec, "Response Start" and "Response Body"; ASGI extensions, "HTTP Trailers"). The last
 * body message moves to RESPONSE_TRAILERS, if they were announced, and the last message to RESPONSE_DONE from wherever it is
 * legal. */
static const uint8_t RESPONSE_NEXT[5][4] = {
    /*                     start          body           trailers           early_hint, debug */
    [RESPONSE_NONE] = {RESPONSE_HEAD, ILLEGAL, ILLEGAL, RESPONSE_NONE},
    [RESPONSE_HEAD] = {ILLEGAL, RESPONSE_BODY, ILLEGAL, RESPONSE_HEAD},
    [RESPONSE_BODY] = {ILLEGAL, RESPONSE_BODY, ILLEGAL, RESPONSE_BODY},
    [RESPONSE_TRAILERS] = {ILLEGAL, ILLEGAL, RESPONSE_TRAILERS, ILLEGAL},
    [RESPONSE_DONE] = {ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL},
};

/* ---- asked by receive() ---- */

static PyObject *
receive_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    Cycle *cycle = ((Channel *)self)->cycle;
    (void)args;
    if (PyVectorcall_NARGS(nargsf) != 0 || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "receive() takes no arguments");
        return NULL;
    }
    if (cycle == NULL || cycle->factory == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "receive() of a request that is over");
        return NULL;
    }
    if (UNLIKELY(!cycle->started)) { /* found by the garbage collector: nobody was given it */
        PyErr_SetString(PyExc_RuntimeError, "receive() of a request that has not begun");
        return NULL;
    }
    Waiter *waiter = cycle->waiter;
    if (waiter != NULL && Py_REFCNT(waiter) == 1 && waiter->cycle == NULL) {
        waiter_reuse(waiter, cycle);
        return Py_NewRef(waiter);
    }
    waiter = waiter_new(cycle, WAITER_RECEIVE);
    if (waiter != NULL)
        Py_XSETREF(cycle->waiter, (Waiter *)Py_NewRef(waiter));
    return (PyObject *)waiter;
}

static PyObject *
body_message(Cycle *cycle)
{
    const State *state = cycle->factory->state;
    PyObject *message = PyDict_Copy(cycle->factory->body_message);
    if (message == NULL)
        return NULL;
    if (cycle->body != NULL) {
        if (cycle->wire->took_body != NULL && cycle->stream != NULL)
            cycle->wire->took_body(cycle, cycle->body_bytes);
        cycle->body_bytes = 0;
        PyObject *body = pieces_take(state, &cycle->body);
        int set = body == NULL ? -1 : PyDict_SetItem(message, state->names.body, body);
        Py_XDECREF(body);
        if (set < 0)
            goto fail;
    }
    if (cycle->body_complete)
        cycle->body_delivered = true;
    else if (PyDict_SetItem(message, state->names.more_body, Py_True) < 0)
        goto fail;
    return message;
fail:
    Py_DECREF(message);
    return NULL;
}

PyObject *
cycle_take_message(Cycle *cycle)
{
    const State *state = cycle->factory->state;
    if (cycle->websocket != NULL)
        return websocket_take_message(cycle);
    if (UNLIKELY(cycle->factory->ending_streams) && cycle_is_endless(cycle))
        cycle->stream_ended = true;
    bool gone = cycle->disconnected || cycle->input_closed || cycle->response == RESPONSE_DONE || cycle->stream_ended;
    if (cycle->body_complete ? !cycle->body_delivered : cycle->body != NULL && !gone)
        return body_message(cycle);
    if (!gone)
        return NULL;
    PyObject *message = PyDict_New();
    if (message != NULL && PyDict_SetItem(message, state->names.type, state->names.http_disconnect) < 0)
        Py_CLEAR(message);
    cycle->told_disconnect = message != NULL;
    return message;
}

bool
cycle_congested(const Cycle *cycle)
{
    return cycle->stream != NULL && cycle->wire->congested(cycle);
}

PyObject *
cycle_wait(Cycle *cycle, bool receiving)
{
    if (!receiving)
        return cycle->wire->wait_writable(cycle);
    PyObject *future = futures_add(cycle->factory->state, cycle->factory->loop, &cycle->receive_futures);
    /* Second, so that what it brings (the client is gone, say) resolves the future. */
    if (future != NULL && cycle->stream != NULL && !cycle->body_complete && cycle->wire->want_body(cycle) < 0)
        Py_CLEAR(future);
    return future;
}

/* ---- written by send() ---- */

static int
refuse(PyObject *error, const char *text)
{
    PyErr_SetString(error, text);
    return -1;
}

int
cycle_check_order(const Cycle *cycle, MessageKind kind)
{
    const State *state = cycle->factory->state;
    if (cycle->disconnected && cycle->response != RESPONSE_DONE)
        return refuse(state->ClientDisconnected, "the client disconnected");
    if (UNLIKELY(cycle->sending_file) && cycle->response != RESPONSE_DONE)
        return refuse(state->MessageError, "send() before the file of the last message was sent: await that send() first");
    if (RESPONSE_NEXT[cycle->response][kind] != ILLEGAL)
        return 0;
    if (cycle->response == RESPONSE_DONE)
        return refuse(state->MessageError, "send() after the response was completed");
    if (cycle->response == RESPONSE_TRAILERS)
        return refuse(state->MessageError, "only http.response.trailers may come behind the last http.response.body");
    if (kind == MESSAGE_TRAILERS)
        return refuse(state->MessageError, "http.response.trailers came before the last http.response.body, or unannounced");
    if (kind == MESSAGE_BODY)
        return refuse(state->MessageError, "http.response.body came before http.response.start");
    return refuse(state->MessageError, "http.response.start came twice");
}

/* "status": the number, or -1 with MessageError or HeaderError. */
static int
message_status(const State *state, PyObject *message)
{
    PyObject *status = PyDict_GetItemWithError(message, state->names.status);
    if (status == NULL || !PyLong_Check(status)) {
        if (!PyErr_Occurred())
            refuse(state->MessageError, "http.response.start: \"status\" must be an int");
        return -1;
    }
    int overflow;
    long number = PyLong_AsLongAndOverflow(status, &overflow);
    if (!overflow && number >= 200 && number <= 999)
        return (int)number;
    Py_INCREF(status);
    PyErr_Format(state->HeaderError, "http.response.start: status %R is no final HTTP status (200 to 999)", status);
    Py_DECREF(status);
    return -1;
}

PyObject *
message_items(const State *state, PyObject *message, PyObject *key, const char *what)
{
    PyObject *value = PyDict_GetItemWithError(message, key);
    if (value == NULL)
        return PyErr_Occurred() ? NULL : PyTuple_New(0);
    Py_INCREF(value);
    PyObject *items = PySequence_Fast(value, "");
    Py_DECREF(value);
    if (items == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        refuse(state->MessageError, what);
    }
    return items;
}

int
message_flag(PyObject *message, PyObject *key)
{
    PyObject *value = PyDict_GetItemWithError(message, key);
    if (value == NULL)
        return PyErr_Occurred() ? -1 : 0;
    Py_INCREF(value);
    int flag = PyObject_IsTrue(value);
    Py_DECREF(value);
    return flag;
}

int
cycle_send_start(Cycle *cycle, PyObject *message)
{
    const State *state = cycle->factory->state;
    int status = message_status(state, message);
    int trailers = status < 0 ? -1 : message_flag(message, state->names.trailers);
    PyObject *fields = trailers < 0 ? NULL
                                    : message_items(state, message, state->names.headers,
                                                    "http.response.start: \"headers\" must be an iterable of [name, value] pairs");
    if (fields == NULL)
        return -1;
    int result = cycle_check_order(cycle, MESSAGE_START); /* iterating the headers may have run the app */
    if (result == 0)
        result = cycle->wire->head(cycle, status, fields);
    Py_DECREF(fields);
    if (result < 0)
        return -1;
    cycle->status = status;
    cycle->no_body = cycle->head_only || status == 204 || status == 205 || status == 304;
    trailers &= cycle->websocket == NULL; /* a denied handshake has no message for them */
    /* RFC 9110 §6.5.1: where there is no place for trailers they are dropped. */
    cycle->trailers = trailers && cycle->takes_trailers && !cycle->version_10 && !cycle->no_body &&
                      cycle->facts.content_length < 0;
    cycle->drops_trailers = trailers && !cycle->trailers;
    cycle->response = RESPONSE_NEXT[cycle->response][MESSAGE_START];
    return 0;
}

/* "body" as a bytes object: new reference; NULL with an exception. Other buffers are copied. */
static PyObject *
body_bytes(const State *state, PyObject *message)
{
    PyObject *body = PyDict_GetItemWithError(message, state->names.body);
    if (body == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(state->empty_bytes);
    if (PyBytes_CheckExact(body))
        return Py_NewRef(body);
    if (PyObject_CheckBuffer(body)) {
        Py_INCREF(body);
        PyObject *bytes = PyBytes_FromObject(body);
        Py_DECREF(body);
        return bytes;
    }
    PyErr_Format(state->MessageError, "http.response.body: \"body\" must be bytes, not %.80s", Py_TYPE(body)->tp_name);
    return NULL;
}

int
cycle_check_length(const Cycle *cycle, int64_t length, bool more)
{
    const State *state = cycle->factory->state;
    if (cycle->facts.content_length < 0 || cycle->no_body)
        return 0;
    uint64_t promised = (uint64_t)cycle->facts.content_length;
    uint64_t total = cycle->body_sent + (uint64_t)length;
    if (total > promised)
        PyErr_Format(state->BodyLengthError, "response body is longer than its content-length: %llu of %llu bytes",
                     (unsigned long long)total, (unsigned long long)promised);
    else if (!more && total < promised)
        PyErr_Format(state->BodyLengthError, "response body is shorter than its content-length: %llu of %llu bytes",
                     (unsigned long long)total, (unsigned long long)promised);
    else
        return 0;
    return -1;
}

/* The wire ran out of memory in the middle of a message: nobody can say what is on it. Keeps the exception. */
static void
abandon_response(Cycle *cycle)
{
    PyObject *error = error_take();
    cycle->response = RESPONSE_DONE;
    if (cycle->stream != NULL)
        cycle->wire->cut(cycle);
    futures_wake(cycle->factory->state, &cycle->receive_futures);
    error_restore(error);
}

bool
cycle_body_begins(Cycle *cycle, int64_t length, bool more)
{
    cycle->response = more              ? RESPONSE_NEXT[cycle->response][MESSAGE_BODY]
                      : cycle->trailers ? RESPONSE_TRAILERS
                                        : RESPONSE_DONE;
    cycle->body_sent += (uint64_t)length;
    return more || cycle->trailers;
}

int
cycle_body_ends(Cycle *cycle, int result, bool more)
{
    if (result < 0)
        abandon_response(cycle);
    else if (!more)
        futures_wake(cycle->factory->state, &cycle->receive_futures);
    return result;
}

int
cycle_send_body(Cycle *cycle, PyObject *message)
{
    const State *state = cycle->factory->state;
    int more = message_flag(message, state->names.more_body);
    PyObject *bytes = more < 0 ? NULL : body_bytes(state, message);
    if (bytes == NULL)
        return -1;
    int result = cycle_check_order(cycle, MESSAGE_BODY); /* the message may have run the app */
    if (result == 0)
        result = cycle_check_length(cycle, PyBytes_GET_SIZE(bytes), more);
    if (result == 0) {
        bool goes_on = cycle_body_begins(cycle, PyBytes_GET_SIZE(bytes), more);
        result = cycle_body_ends(cycle, cycle->wire->body(cycle, bytes, goes_on), goes_on);
    }
    Py_DECREF(bytes);
    return result;
}

static int
send_message(Cycle *cycle, PyObject *message)
{
    const State *state = cycle->factory->state;
    if (!PyDict_Check(message)) {
        PyErr_Format(state->MessageError, "send() takes a dict, not %.80s", Py_TYPE(message)->tp_name);
        return -1;
    }
    if (cycle->websocket != NULL)
        return websocket_send(cycle, message);
    PyObject *type = PyDict_GetItemWithError(message, state->names.type);
    if (type == NULL || !PyUnicode_Check(type)) {
        if (!PyErr_Occurred())
            refuse(state->MessageError, "send(): the message has no \"type\" (a str)");
        return -1;
    }
    int result;
    if (type == state->names.http_response_body || PyUnicode_Compare(type, state->names.http_response_body) == 0)
        result = cycle_check_order(cycle, MESSAGE_BODY) < 0 ? -1 : cycle_send_body(cycle, message);
    else if (PyUnicode_Compare(type, state->names.http_response_start) == 0)
        result = cycle_check_order(cycle, MESSAGE_START) < 0 ? -1 : cycle_send_start(cycle, message);
    else
        result = cycle_send_extension(cycle, type, message);
    if (UNLIKELY(cycle->factory->ending_streams) && result == 0)
        cycle_end_stream(cycle); /* for a receive() that began to wait before there was anything to tell */
    return result;
}

static PyObject *
send_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    Cycle *cycle = ((Channel *)self)->cycle;
    if (PyVectorcall_NARGS(nargsf) != 1 || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "send() takes exactly one message");
        return NULL;
    }
    if (cycle == NULL || cycle->factory == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "send() of a request that is over");
        return NULL;
    }
    if (UNLIKELY(!cycle->started)) {
        PyErr_SetString(PyExc_RuntimeError, "send() of a request that has not begun");
        return NULL;
    }
    Py_INCREF(cycle);
    PyObject *message = Py_NewRef(args[0]);
    int result = send_message(cycle, message);
    Py_DECREF(message);
    PyObject *awaitable = NULL;
    if (result == 0)
        awaitable = UNLIKELY(cycle_congested(cycle)) ? (PyObject *)waiter_new(cycle, WAITER_DRAIN)
                                                     : Py_NewRef(cycle->factory->state->ready_none);
    cycle_release(cycle);
    return awaitable;
}

/* ---- types ---- */

Channel *
channel_new(PyTypeObject *type, Cycle *cycle, bool is_send)
{
    Channel *channel = PyObject_GC_New(Channel, type);
    if (channel == NULL)
        return NULL;
    channel->vectorcall = is_send ? send_vectorcall : receive_vectorcall;
    channel->cycle = (Cycle *)Py_NewRef(cycle);
    PyObject_GC_Track(channel);
    return channel;
}

static int
channel_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Channel *)self)->cycle);
    return 0;
}

static int
channel_clear(PyObject *self)
{
    Py_CLEAR(((Channel *)self)->cycle);
    return 0;
}

static void
channel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    channel_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef channel_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Channel, vectorcall), READONLY, NULL},
    {NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_clear, channel_clear},
    {Py_tp_members, channel_members},
    {Py_tp_call, PyVectorcall_Call},
    {0, NULL},
};

#define CHANNEL_FLAGS                                                                                          \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |                                    \
     Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE)

PyType_Spec send_spec = {
    .name = "shardserve._native.Send",
    .basicsize = sizeof(Channel),
    .flags = CHANNEL_FLAGS,
    .slots = channel_slots,
};

PyType_Spec receive_spec = {
    .name = "shardserve._native.Receive",
    .basicsize = sizeof(Channel),
    .flags = CHANNEL_FLAGS,
    .slots = channel_slots,
};
