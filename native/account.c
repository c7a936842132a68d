/* Figures and access lines of requests. See account.h. */
#include "account.h"

#include "accesslog.h"
#include "file.h"
#include "head.h"
#include "http2.h"
#include "trace.h"
#include "websocket.h"

#include <time.h>

int64_t
account_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static uint64_t
microseconds(int64_t from_ns, int64_t to_ns)
{
    return to_ns > from_ns ? (uint64_t)(to_ns - from_ns) / 1000 : 0;
}

/* The access log is a callable: a handler of Python's logging, say. May run Python. */
static void
call_access(Factory *factory, const Cycle *cycle)
{
    const State *state = factory->state;
    PyObject *access = Py_NewRef(factory->access);
    PyObject *status = PyLong_FromLong(cycle->status);
    PyObject *result = NULL;
    if (status != NULL) {
        PyObject *args[6] = {NULL, cycle->client, cycle->method, cycle->target,
                             cycle->version_2    ? state->names.version_2
                             : cycle->version_10 ? state->names.version_10
                                                 : state->names.version_11,
                             status};
        result = PyObject_Vectorcall(access, args + 1, 5 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    if (result == NULL)
        PyErr_WriteUnraisable(access);
    Py_XDECREF(status);
    Py_XDECREF(result);
    Py_DECREF(access);
}

/* The figures and the line of `cycle`. May run Python. */
static void
account(const Connection *connection, const Cycle *cycle)
{
    Factory *factory = connection->factory;
    Figures *figures = &factory->figures;
    if (cycle->status == 0)
        return;
    int64_t now_ns = account_now_ns();
    AccessEntry entry = {
        .cycle = cycle,
        .tls_version = connection->tls_version,
        .duration_us = microseconds(cycle->begun_ns, now_ns),
        .first_byte_us = microseconds(cycle->begun_ns, cycle->first_byte_ns == 0 ? now_ns : cycle->first_byte_ns),
        .request_bytes = (uint64_t)cycle->body_received,
        .response_bytes = cycle->no_body ? 0 : cycle->body_sent,
    };
    figures_response(figures, cycle->method_kind, cycle->status);
    histogram_add(&figures->duration_us, entry.duration_us);
    histogram_add(&figures->first_byte_us, entry.first_byte_us);
    histogram_add(&figures->request_body_bytes, entry.request_bytes);
    histogram_add(&figures->response_body_bytes, entry.response_bytes);
    if (factory->access_log != NULL)
        accesslog_add(factory->access_log, &entry);
    else if (UNLIKELY(factory->access != NULL))
        call_access(factory, cycle);
}

int
account_head(Cycle *cycle, PyObject *fields)
{
    const AccessLog *log = cycle->factory->access_log;
    cycle->has_own_id = cycle->request_id != NULL && trace_has_own_id(cycle, fields);
    if (log == NULL)
        return 0;
    accesslog_forget(cycle->response_fields);
    cycle->response_fields = accesslog_capture(log, fields);
    return cycle->response_fields == NULL && PyErr_Occurred() ? -1 : 0;
}

void
account_answered(Cycle *cycle, int status)
{
    cycle->facts = (HeadFacts){.content_length = -1}; /* of a head of the app's that is not sent */
    cycle->has_own_id = false;
    accesslog_forget(cycle->response_fields);
    cycle->response_fields = NULL;
    cycle->status = status;
    cycle->no_body = cycle->head_only;
    cycle->body_sent = strlen(head_reason(status));
}

void
account_response(const Connection *connection, Cycle *cycle)
{
    if (cycle->accounted)
        return; /* it was broken off, and what heard of that has finished it */
    cycle->accounted = true;
    account(connection, cycle);
}

void
account_broken_off(const Connection *connection, Cycle *cycle)
{
    Factory *factory = connection->factory;
    if (connection->websocket != NULL || !cycle->started || cycle->accounted)
        return;
    cycle->accounted = true;
    if (!connection->rejected && !factory->aborted)
        figures_add(&factory->figures, FIGURE_abandoned);
    if (cycle->response != RESPONSE_BODY && cycle->response != RESPONSE_TRAILERS && !cycle->sending_file)
        return; /* nothing of it is on the wire */
    cycle->body_sent -= (uint64_t)file_left(connection);
    account(connection, cycle);
}

void
account_connections(Factory *factory)
{
    uint64_t count[FIGURE_COUNT] = {0};
    for (Link *link = factory->connections.next; link != &factory->connections; link = link->next) {
        const Connection *connection = LIST_OWNER(link, Connection, all);
        if (connection->closing || connection->lingering)
            count[FIGURE_connections_closing]++;
        else if (connection->websocket != NULL)
            count[FIGURE_connections_websocket]++;
        else if ((connection->current != NULL && connection->current->started) ||
                 (connection->http2 != NULL && http2_stream_count(connection) > 0))
            count[FIGURE_connections_active]++;
        else if (connection->current != NULL || connection->incoming != NULL || connection->partial_line != NULL ||
                 connection->input != INPUT_LINE)
            count[FIGURE_connections_reading]++;
        else
            count[FIGURE_connections_idle]++;
    }
    for (int figure = FIGURE_connections_idle; figure <= FIGURE_connections_closing; figure++)
        figure_store(&factory->figures.figures[figure], count[figure]);
}
