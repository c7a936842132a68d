/* The Cycle: one request and its response as ASGI sees them. See cycle.h.
 *
 * In the order of a life: made, fed by the wire, given to the app, ended, used again. What the app says and
 * hears in between is channel.c. Every function that runs Python looks at the cycle's state again after it.
 */
#include "cycle.h"

#include "accesslog.h"
#include "await.h"
#include "http2.h"
#include "pieces.h"
#include "task.h"
#include "websocket.h"

#define FREE_CYCLES SPARES(256)

/* ---- made, and made again ---- */

static Cycle *
cycle_allocate(Factory *factory)
{
    State *state = factory->state;
    Cycle *cycle = factory->free_cycles;
    if (cycle != NULL) {
        factory->free_cycles = cycle->next;
        factory->free_cycle_count--;
        cycle->next = NULL;
        return cycle;
    }
    cycle = PyObject_GC_New(Cycle, state->cycle_type);
    if (cycle == NULL)
        return NULL;
    memset((char *)cycle + sizeof(PyObject), 0, sizeof(Cycle) - sizeof(PyObject));
    list_init(&cycle->in_flight);
    PyObject_GC_Track(cycle);
    cycle->send = channel_new(state->send_type, cycle, true);
    cycle->receive = channel_new(state->receive_type, cycle, false);
    if (cycle->send == NULL || cycle->receive == NULL) {
        Py_CLEAR(cycle->send);
        Py_CLEAR(cycle->receive);
        Py_DECREF(cycle);
        return NULL;
    }
    return cycle;
}

Cycle *
cycle_new(Factory *factory, const Wire *wire, PyObject *stream)
{
    Cycle *cycle = cycle_allocate(factory);
    if (cycle == NULL)
        return NULL;
    cycle->factory = (Factory *)Py_NewRef(factory);
    cycle->wire = wire;
    cycle->stream = Py_NewRef(stream);
    cycle->version_2 = wire != &http1_wire;
    cycle->headers = PyList_New(0);
    if (cycle->headers == NULL) {
        Py_CLEAR(cycle->stream);
        cycle->app_done = true;
        cycle_release(cycle);
        return NULL;
    }
    return cycle;
}

/* What belongs to one request, but for those who wait for it. Frees app objects: may run Python. */
static void
clear_request(Cycle *cycle)
{
    Py_CLEAR(cycle->stream);
    Py_CLEAR(cycle->method);
    Py_CLEAR(cycle->target);
    Py_CLEAR(cycle->headers);
    Py_CLEAR(cycle->client);
    Py_CLEAR(cycle->request_id);
    accesslog_forget(cycle->response_fields);
    cycle->response_fields = NULL;
    Py_CLEAR(cycle->body);
}

/* The request is over. May run Python. */
static void
cycle_drop_request(Cycle *cycle)
{
    clear_request(cycle);
    futures_wake(cycle->factory->state, &cycle->receive_futures); /* never left waiting */
}

/* Whether the cycle's life is over: neither the wire nor the app is coming back. */
static bool
cycle_is_over(const Cycle *cycle)
{
    return cycle->stream == NULL && cycle->parked == NULL && (cycle->app_done || !cycle->started);
}

/* Whether the app kept nothing: the channels are only ours, the cycle only the channels' and the caller's. */
static bool
cycle_is_unshared(const Cycle *cycle)
{
    return Py_REFCNT(cycle) == 3 && Py_REFCNT(cycle->send) == 1 && Py_REFCNT(cycle->receive) == 1 &&
           (cycle->waiter == NULL || (Py_REFCNT(cycle->waiter) == 1 && cycle->waiter->cycle == NULL));
}

void
cycle_release(Cycle *cycle)
{
    if (!cycle_is_over(cycle) || cycle->send == NULL || Py_REFCNT(cycle) != 3) {
        Py_DECREF(cycle);
        return;
    }
    Factory *factory = cycle->factory;
    cycle_drop_request(cycle);
    if (UNLIKELY(cycle->websocket != NULL) && cycle_is_unshared(cycle))
        Py_CLEAR(cycle->websocket); /* may run Python */
    if (!cycle_is_unshared(cycle) || cycle->websocket != NULL || factory->closed || factory->free_cycle_count >= FREE_CYCLES) {
        /* Someone kept send or receive: it keeps the dead cycle, the cycle no longer keeps it. */
        Py_CLEAR(cycle->send);
        Py_CLEAR(cycle->receive);
        Py_CLEAR(cycle->waiter);
        Py_DECREF(cycle);
        return;
    }
    size_t begin = offsetof(Cycle, version_10);
    size_t end = offsetof(Cycle, in_flight);
    memset((char *)cycle + begin, 0, end - begin);
    CHECK(list_empty(&cycle->in_flight) && cycle->next == NULL);
    cycle->factory = NULL;
    cycle->next = factory->free_cycles;
    factory->free_cycles = cycle;
    factory->free_cycle_count++;
    Py_DECREF(factory);
}

void
cycle_clear_free(Factory *factory)
{
    Cycle *cycle;
    while ((cycle = factory->free_cycles) != NULL) {
        factory->free_cycles = cycle->next;
        factory->free_cycle_count--;
        cycle->next = NULL;
        Py_CLEAR(cycle->send);
        Py_CLEAR(cycle->receive);
        Py_CLEAR(cycle->waiter);
        Py_DECREF(cycle);
    }
}

/* ---- fed by the wire ---- */

int
cycle_feed_body(Cycle *cycle, PyObject *bytes)
{
    if (pieces_add(&cycle->body, bytes) < 0)
        return -1;
    cycle->body_bytes += (size_t)PyBytes_GET_SIZE(bytes);
    cycle->body_received += PyBytes_GET_SIZE(bytes);
    futures_wake(cycle->factory->state, &cycle->receive_futures);
    return 0;
}

void
cycle_feed_end(Cycle *cycle)
{
    cycle->body_complete = true;
    futures_wake(cycle->factory->state, &cycle->receive_futures);
}

void
cycle_input_closed(Cycle *cycle)
{
    cycle->input_closed = true;
    futures_wake(cycle->factory->state, &cycle->receive_futures);
}

void
cycle_wake_receiver(Cycle *cycle)
{
    if (!task_step_at_once(cycle))
        futures_wake(cycle->factory->state, &cycle->receive_futures);
}

bool
cycle_is_endless(const Cycle *cycle)
{
    bool begun = cycle->response == RESPONSE_BODY || (cycle->response == RESPONSE_HEAD && cycle->facts.event_stream);
    return begun && cycle->facts.content_length < 0 && cycle->body_delivered && !cycle->stream_ended &&
           !cycle->input_closed && !cycle->disconnected && !cycle->app_done;
}

bool
cycle_end_stream(Cycle *cycle)
{
    if (!cycle_is_endless(cycle))
        return false;
    cycle->stream_ended = true;
    futures_wake(cycle->factory->state, &cycle->receive_futures);
    return true;
}

void
cycle_disconnect(Cycle *cycle)
{
    Py_INCREF(cycle);
    cycle->disconnected = true;
    Py_CLEAR(cycle->stream);
    futures_wake(cycle->factory->state, &cycle->receive_futures);
    cycle_release(cycle);
}

/* ---- given to the app ---- */

void
cycle_start(Cycle *cycle, PyObject *scope)
{
    Factory *factory = cycle->factory;
    cycle->started = true;
    Py_INCREF(cycle); /* the list's */
    list_append(&factory->cycles, &cycle->in_flight);
    factory->in_flight_count++;
    task_run(factory, cycle, scope);
}

/* What types.coroutine makes of a generator function. Any other generator is a mistake. */
static bool
is_generator_coroutine(PyObject *object)
{
    if (!PyGen_CheckExact(object))
        return false;
    PyObject *code = PyObject_GetAttrString(object, "gi_code");
    bool is = code != NULL && PyCode_Check(code) && (((PyCodeObject *)code)->co_flags & CO_ITERABLE_COROUTINE);
    if (code == NULL)
        PyErr_Clear();
    Py_XDECREF(code);
    return is;
}

PyObject *
cycle_call_app(Cycle *cycle, PyObject *scope)
{
    PyObject *args[4] = {NULL, scope, (PyObject *)cycle->receive, (PyObject *)cycle->send};
    PyObject *app = Py_NewRef(LIKELY(cycle->app == NULL) ? cycle->factory->app : cycle->app);
    PyObject *awaitable = PyObject_Vectorcall(app, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(app);
    if (awaitable == NULL || PyCoro_CheckExact(awaitable) || is_generator_coroutine(awaitable))
        return awaitable;
    PyAsyncMethods *methods = Py_TYPE(awaitable)->tp_as_async;
    PyObject *iterator = NULL;
    if (methods != NULL && methods->am_await != NULL)
        iterator = methods->am_await(awaitable);
    else
        PyErr_Format(cycle->factory->state->MessageError,
                     "the ASGI application must return an awaitable, not %.200s", Py_TYPE(awaitable)->tp_name);
    Py_DECREF(awaitable);
    return iterator;
}

static void
report_error(Cycle *cycle, PyObject *error, PyObject *outcome)
{
    Factory *factory = cycle->factory;
    PyObject *target = PyUnicode_DecodeLatin1(PyBytes_AS_STRING(cycle->target),
                                              PyBytes_GET_SIZE(cycle->target), NULL);
    PyObject *request_id = cycle->request_id == NULL
                               ? Py_NewRef(Py_None)
                               : PyUnicode_DecodeLatin1(PyBytes_AS_STRING(cycle->request_id),
                                                        PyBytes_GET_SIZE(cycle->request_id), NULL);
    PyObject *result = NULL;
    if (target != NULL && request_id != NULL) {
        PyObject *args[7] = {NULL, error, cycle->method, target, cycle->client, outcome, request_id};
        result = PyObject_Vectorcall(factory->on_app_error, args + 1, 6 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    if (result == NULL)
        PyErr_WriteUnraisable(factory->on_app_error);
    Py_XDECREF(target);
    Py_XDECREF(request_id);
    Py_XDECREF(result);
}

/* Whether the app failed: neither its client went, nor did we cancel it. */
static bool
is_app_error(const Factory *factory, PyObject *error)
{
    return error != NULL && !PyErr_GivenExceptionMatches(error, factory->state->ClientDisconnected) &&
           !(factory->aborted && PyErr_GivenExceptionMatches(error, factory->state->CancelledError));
}

/* What the app failed to do, as an error for the log: it returned without finishing. New reference. */
static PyObject *
unfinished_error(const Cycle *cycle)
{
    PyErr_SetString(cycle->factory->state->MessageError,
                    cycle->websocket != NULL && cycle->response == RESPONSE_NONE
                        ? "the ASGI application returned without accepting or closing the WebSocket"
                    : cycle->response == RESPONSE_NONE
                        ? "the ASGI application returned without sending a response"
                    : cycle->response == RESPONSE_TRAILERS
                        ? "the ASGI application returned without the trailers that http.response.start announced"
                        : "the ASGI application returned without completing its response: the last "
                          "http.response.body must have more_body false");
    return error_take();
}

/* The app was told that its client is gone and left the response where it was, but the client is there: ends an event
 * stream for it, unless it was left inside a file or the trailers. Whether it did. */
static bool
end_stream_on_wire(Cycle *cycle)
{
    if (!cycle->stream_ended || !cycle->facts.event_stream || cycle->sending_file || cycle->trailers_begun)
        return false;
    CHECK(cycle->told_disconnect); /* else leaving it is an error */
    cycle->response = RESPONSE_DONE;
    if (cycle->wire->body(cycle, cycle->factory->state->empty_bytes, false) == 0)
        return true;
    PyErr_WriteUnraisable((PyObject *)cycle);
    cycle->response = RESPONSE_BODY;
    return false;
}

/* The app left its response unfinished, and the client is there to see. Returns what it gets (borrowed). */
static PyObject *
end_on_wire(Cycle *cycle, bool failed)
{
    const State *state = cycle->factory->state;
    bool nothing_sent = cycle->response < RESPONSE_BODY;
    cycle->response = RESPONSE_DONE;
    if (nothing_sent && failed) {
        cycle->wire->fail(cycle);
        return state->names.outcome_500;
    }
    if (nothing_sent)
        cycle->status = 0; /* no line in the access log: there was no response */
    cycle->wire->cut(cycle);
    return state->names.outcome_cut;
}

void
cycle_app_done(Cycle *cycle, PyObject *error)
{
    Factory *factory = cycle->factory;
    const State *state = factory->state;
    PyObject *own_error = NULL;
    Py_INCREF(factory);
    cycle->app_done = true;
    list_remove(&cycle->in_flight);
    factory->in_flight_count--;
    factory->served++;

    bool finished = cycle->response == RESPONSE_DONE;
    if (error == NULL && !finished && !cycle->disconnected && !cycle->told_disconnect)
        error = own_error = unfinished_error(cycle);
    PyObject *outcome = finished ? state->names.outcome_done : state->names.outcome_gone;
    if (cycle->websocket != NULL && cycle->websocket->accepted)
        outcome = websocket_app_done(cycle, error);
    else if (!finished && !cycle->disconnected && (error != NULL || !end_stream_on_wire(cycle)))
        outcome = end_on_wire(cycle, error != NULL);
    futures_wake(state, &cycle->receive_futures);
    if (is_app_error(factory, error))
        figures_add(&factory->figures, FIGURE_app_errors);
    if (error != NULL)
        report_error(cycle, error, factory->aborted && PyErr_GivenExceptionMatches(error, state->CancelledError)
                                       ? state->names.outcome_aborted
                                       : outcome);
    Py_XDECREF(own_error);
    if (UNLIKELY(cycle->left_behind != NULL)) {
        http2_app_done((Connection *)cycle->left_behind);
        Py_CLEAR(cycle->left_behind);
    }
    cycle_release(cycle); /* the list's */
    if (UNLIKELY(factory->draining))
        factory_check_empty(factory);
    Py_DECREF(factory);
}

/* ---- types ---- */

static int
cycle_traverse(PyObject *self, visitproc visit, void *arg)
{
    Cycle *cycle = (Cycle *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(cycle->factory);
    Py_VISIT(cycle->stream);
    Py_VISIT(cycle->next);
    Py_VISIT(cycle->send);
    Py_VISIT(cycle->receive);
    Py_VISIT(cycle->waiter);
    Py_VISIT(cycle->websocket);
    Py_VISIT(cycle->left_behind);
    Py_VISIT(cycle->method);
    Py_VISIT(cycle->target);
    Py_VISIT(cycle->headers);
    Py_VISIT(cycle->client);
    Py_VISIT(cycle->body);
    Py_VISIT(cycle->receive_futures);
    Py_VISIT(cycle->parked);
    return 0;
}

static int
cycle_clear(PyObject *self)
{
    Cycle *cycle = (Cycle *)self;
    cycle->disconnected = true; /* for a send that outlives it */
    clear_request(cycle);
    Py_CLEAR(cycle->receive_futures);
    Py_CLEAR(cycle->next);
    Py_CLEAR(cycle->send);
    Py_CLEAR(cycle->receive);
    Py_CLEAR(cycle->waiter);
    Py_CLEAR(cycle->websocket);
    Py_CLEAR(cycle->left_behind);
    Py_CLEAR(cycle->parked);
    return 0;
}

static void
cycle_dealloc(PyObject *self)
{
    Cycle *cycle = (Cycle *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    CHECK(list_empty(&cycle->in_flight));
    cycle_clear(self);
    Py_CLEAR(cycle->factory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot cycle_slots[] = {
    {Py_tp_dealloc, cycle_dealloc},
    {Py_tp_traverse, cycle_traverse},
    {Py_tp_clear, cycle_clear},
    {0, NULL},
};

PyType_Spec cycle_spec = {
    .name = "shardserve._native.Cycle",
    .basicsize = sizeof(Cycle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = cycle_slots,
};
