/* What a line of the access log can say. See access_ops.h and docs/logging.md.
 *
 * A fact that is not there is "-"; in JSON it is null, and what is text has quotes. Nothing here runs Python: an entry's
 * objects are looked at as they are, since an app may have made anything of them.
 */
#define _GNU_SOURCE /* stpcpy, tm_gmtoff */
#include "access_ops.h"

#include "chars.h"
#include "escape.h"
#include "head.h"
#include "scope.h"
#include "trace.h"
#include "websocket.h"

#include <time.h>

/* The longest user name that is looked for in credentials. */
#define USER_BYTES 256

/* ---- appended ---- */

static bool
put_text(AccessLog *log, const char *text, size_t length)
{
    char *to = accesslog_room(log, length + 1); /* there is a buffer, even for nothing */
    if (to == NULL)
        return false;
    memcpy(to, text, length);
    accesslog_grow(log, to + length);
    return true;
}

static bool
put_number(AccessLog *log, uint64_t number)
{
    char *to = accesslog_room(log, 20);
    if (to != NULL)
        accesslog_grow(log, chars_put_decimal(to, number));
    return to != NULL;
}

static bool
put_absent(AccessLog *log)
{
    return log->json ? put_text(log, "null", 4) : put_text(log, "-", 1);
}

/* Bytes from the wire. */
static bool
put_bytes(AccessLog *log, const char *text, size_t length, EscapeKind kind)
{
    char *to = accesslog_room(log, length * ESCAPE_BYTE_MOST + 2);
    if (to == NULL)
        return false;
    if (log->json)
        *to++ = '"';
    to = escape_bytes(to, text, length, kind, log->json);
    if (log->json)
        *to++ = '"';
    accesslog_grow(log, to);
    return true;
}

/* The same, or that it is not there. */
static bool
put_field(AccessLog *log, PyObject *value)
{
    if (value == NULL || !PyBytes_CheckExact(value))
        return put_absent(log);
    return put_bytes(log, PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value), ESCAPE_WORDS);
}

/* ---- who ---- */

/* The parts of an ASGI address. Whether it is one. */
static bool
address_parts(PyObject *client, PyObject **host, int64_t *port)
{
    if (client == NULL || !PyTuple_Check(client) || PyTuple_GET_SIZE(client) < 2)
        return false;
    *host = PyTuple_GET_ITEM(client, 0);
    PyObject *number = PyTuple_GET_ITEM(client, 1);
    int overflow = 0;
    *port = PyLong_Check(number) ? PyLong_AsLongLongAndOverflow(number, &overflow) : 0;
    return PyUnicode_Check(*host);
}

static bool
put_address(AccessLog *log, const AccessEntry *entry, bool with_port)
{
    PyObject *host;
    int64_t port;
    bool known = address_parts(entry->cycle->client, &host, &port);
    if (!known)
        return with_port && !log->json ? true : put_absent(log); /* Uvicorn's line has nothing there */
    char *to = accesslog_room(log, (size_t)PyUnicode_GET_LENGTH(host) * ESCAPE_CHARACTER_MOST + 24);
    if (to == NULL)
        return false;
    if (log->json)
        *to++ = '"';
    to = escape_text(to, host, ESCAPE_WORD, log->json);
    if (with_port) {
        *to++ = ':';
        to = chars_put_decimal(to, port < 0 ? 0 : (uint64_t)port);
    }
    if (log->json)
        *to++ = '"';
    accesslog_grow(log, to);
    return true;
}

static bool
op_client(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_address(log, entry, true);
}

static bool
op_host(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_address(log, entry, false);
}

static bool
op_port(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    PyObject *host;
    int64_t port;
    (void)argument;
    return address_parts(entry->cycle->client, &host, &port) && port >= 0 ? put_number(log, (uint64_t)port) : put_absent(log);
}

/* The value of a field of the request, or NULL. */
static PyObject *
request_field(const AccessEntry *entry, PyObject *name)
{
    int count;
    return trace_find_field(entry->cycle->headers, name, &count);
}

static bool
op_user(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    char user[USER_BYTES];
    PyObject *value = request_field(entry, entry->cycle->factory->state->field_authorization);
    (void)argument;
    Py_ssize_t length = value == NULL ? -1
                                      : escape_basic_user(PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value), user,
                                                          sizeof(user));
    return length <= 0 ? put_absent(log) : put_bytes(log, user, (size_t)length, ESCAPE_WORDS);
}

static bool
op_tls_version(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    PyObject *version = entry->tls_version;
    (void)argument;
    if (version == NULL || !PyUnicode_Check(version) || PyUnicode_GET_LENGTH(version) > 32)
        return put_absent(log);
    char text[32 * ESCAPE_CHARACTER_MOST];
    const char *end = escape_text(text, version, ESCAPE_WORD, false);
    return put_bytes(log, text, (size_t)(end - text), ESCAPE_WORD);
}

/* ---- what was asked ---- */

static bool
op_method(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    const Cycle *cycle = entry->cycle;
    const State *state = cycle->factory->state;
    /* A handshake's method has another name by now (websocket_run). */
    PyObject *method = cycle->method_kind < LINE_OTHER ? state->methods[cycle->method_kind] : cycle->method;
    (void)argument;
    if (!PyUnicode_IS_COMPACT_ASCII(method))
        return put_absent(log);
    return put_bytes(log, PyUnicode_DATA(method), (size_t)PyUnicode_GET_LENGTH(method), ESCAPE_WORD);
}

static bool
op_target(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    PyObject *target = entry->cycle->target;
    (void)argument;
    return put_bytes(log, PyBytes_AS_STRING(target), (size_t)PyBytes_GET_SIZE(target), ESCAPE_WORD);
}

/* The path, or what is behind the question mark. */
static bool
put_part(AccessLog *log, const AccessEntry *entry, bool query)
{
    Py_ssize_t length;
    const char *text = scope_target(entry->cycle->target, &length);
    const char *mark = memchr(text, '?', (size_t)length);
    Py_ssize_t path_length = mark == NULL ? length : mark - text;
    if (!query)
        return path_length == 0 ? put_bytes(log, "/", 1, ESCAPE_WORD) : put_bytes(log, text, (size_t)path_length, ESCAPE_WORD);
    return mark == NULL ? put_bytes(log, "", 0, ESCAPE_WORD)
                        : put_bytes(log, mark + 1, (size_t)(length - path_length - 1), ESCAPE_WORD);
}

static bool
op_path(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_part(log, entry, false);
}

static bool
op_query(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_part(log, entry, true);
}

static bool
op_version(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    static const char *const versions[] = {"\"1.1\"", "\"1.0\"", "\"2\""};
    const char *version = versions[entry->cycle->version_2 ? 2 : entry->cycle->version_10];
    size_t length = strlen(version);
    (void)argument;
    return log->json ? put_text(log, version, length) : put_text(log, version + 1, length - 2);
}

static bool
op_request_field(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    return put_field(log, request_field(entry, argument));
}

static bool
op_request_id(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_field(log, entry->cycle->request_id);
}

static bool
op_trace_id(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    const char *id = trace_id(entry->cycle);
    (void)argument;
    return id == NULL ? put_absent(log) : put_bytes(log, id, TRACE_ID_LENGTH, ESCAPE_WORD);
}

static bool
op_request_bytes(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_number(log, entry->request_bytes);
}

/* ---- what was answered ---- */

static bool
op_status(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_number(log, (uint64_t)entry->cycle->status);
}

static bool
op_status_text(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    /* SGR codes by class, the same colours as Uvicorn's. */
    static const char *const colours[] = {"97", "32", "33", "31", "91"};
    int status = entry->cycle->status;
    int kind = status / 100 - 1;
    bool coloured = argument != NULL && PyBytes_GET_SIZE(argument) > 0 && kind >= 0 && kind < 5;
    const char *reason = head_reason(status);
    char text[128];
    char *to = coloured ? stpcpy(stpcpy(stpcpy(text, "\x1b["), colours[kind]), "m") : text;
    to = chars_put_decimal(to, (uint64_t)status);
    *to++ = ' ';
    to = stpcpy(to, reason);
    if (coloured)
        to = stpcpy(to, "\x1b[0m");
    size_t length = (size_t)(to - text);
    return log->json ? put_bytes(log, text, length, ESCAPE_WORDS) : put_text(log, text, length);
}

static bool
op_ws_outcome(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    bool accepted = entry->cycle->websocket != NULL && entry->cycle->websocket->accepted;
    if (accepted && !log->json)
        return put_text(log, "[accepted]", 10);
    return op_status(log, entry, argument);
}

PyObject *
access_find_response_field(PyObject *fields, PyObject *name)
{
    Py_ssize_t length = PyBytes_GET_SIZE(name);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fields); i++) {
        PyObject *pair = PySequence_Fast_GET_ITEM(fields, i);
        PyObject *found = PySequence_Fast_GET_ITEM(pair, 0);
        if (PyBytes_GET_SIZE(found) == length &&
            chars_equal_lower(PyBytes_AS_STRING(found), PyBytes_AS_STRING(name), (size_t)length))
            return PySequence_Fast_GET_ITEM(pair, 1);
    }
    return NULL;
}

static bool
op_response_field(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    PyObject **values = entry->cycle->response_fields;
    for (Py_ssize_t i = 0; values != NULL && i < PyList_GET_SIZE(log->response_names); i++) {
        PyObject *name = PyList_GET_ITEM(log->response_names, i);
        if (PyBytes_GET_SIZE(name) == PyBytes_GET_SIZE(argument) &&
            memcmp(PyBytes_AS_STRING(name), PyBytes_AS_STRING(argument), (size_t)PyBytes_GET_SIZE(name)) == 0)
            return put_field(log, values[i]);
    }
    return put_absent(log);
}

static bool
op_response_bytes(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_number(log, entry->response_bytes);
}

static bool
op_response_bytes_clf(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return entry->response_bytes == 0 ? put_absent(log) : put_number(log, entry->response_bytes);
}

/* ---- when, and how long ---- */

static bool
op_time_clf(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec"; /* whatever the locale is */
    TimeCache *cache = &log->clf;
    struct timespec now;
    (void)entry, (void)argument;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (cache->moment != now.tv_sec) {
        struct tm local;
        localtime_r(&now.tv_sec, &local);
        long minutes = labs(local.tm_gmtoff) / 60;
        cache->length = (size_t)snprintf(cache->text, sizeof(cache->text), "[%02d/%.3s/%04d:%02d:%02d:%02d %c%02ld%02ld]",
                                         local.tm_mday, months + local.tm_mon * 3, local.tm_year + 1900, local.tm_hour,
                                         local.tm_min, local.tm_sec, local.tm_gmtoff < 0 ? '-' : '+', minutes / 60, minutes % 60);
        cache->moment = now.tv_sec;
    }
    return log->json ? put_bytes(log, cache->text, cache->length, ESCAPE_WORDS) : put_text(log, cache->text, cache->length);
}

/* RFC 3339 §5.6, in UTC, with milliseconds. */
static bool
op_time_iso(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    TimeCache *cache = &log->iso;
    struct timespec now;
    (void)entry, (void)argument;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t moment = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    if (cache->moment != moment) {
        if (cache->moment / 1000 != now.tv_sec || cache->moment < 0) {
            struct tm utc;
            gmtime_r(&now.tv_sec, &utc);
            snprintf(cache->text, sizeof(cache->text), "%04d-%02d-%02dT%02d:%02d:%02d.", utc.tm_year + 1900, utc.tm_mon + 1,
                     utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
            cache->length = strlen(cache->text) + 4;
        }
        int ms = (int)(moment % 1000);
        char *to = cache->text + cache->length - 4;
        to[0] = (char)('0' + ms / 100);
        to[1] = (char)('0' + ms / 10 % 10);
        to[2] = (char)('0' + ms % 10);
        to[3] = 'Z';
        cache->moment = moment;
    }
    return put_bytes(log, cache->text, cache->length, ESCAPE_WORD);
}

static bool
op_duration_us(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_number(log, entry->duration_us);
}

static bool
op_duration_ms(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_number(log, entry->duration_us / 1000);
}

static bool
op_duration_s(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_number(log, entry->duration_us / 1000000);
}

/* Seconds with six decimals. */
static bool
op_duration_decimal(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    char *to = accesslog_room(log, 32);
    (void)argument;
    if (to == NULL)
        return false;
    to = chars_put_decimal(to, entry->duration_us / 1000000);
    *to++ = '.';
    uint64_t rest = entry->duration_us % 1000000;
    for (int i = 5; i >= 0; i--, rest /= 10)
        to[i] = (char)('0' + rest % 10);
    accesslog_grow(log, to + 6);
    return true;
}

static bool
op_first_byte_us(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)argument;
    return put_number(log, entry->first_byte_us);
}

static bool
op_literal(AccessLog *log, const AccessEntry *entry, PyObject *argument)
{
    (void)entry;
    return put_text(log, PyBytes_AS_STRING(argument), (size_t)PyBytes_GET_SIZE(argument));
}

/* ---- the table ---- */

static const struct {
    const char *name;
    bool (*run)(AccessLog *log, const AccessEntry *entry, PyObject *argument);
    AccessOpFacts facts;
} OPS[] = {
    {"literal", op_literal, {.argument = ACCESS_NEEDED}},
    {"client", op_client, {0}},
    {"host", op_host, {0}},
    {"port", op_port, {0}},
    {"user", op_user, {0}},
    {"tls_version", op_tls_version, {.tls = true}},
    {"method", op_method, {0}},
    {"target", op_target, {0}},
    {"path", op_path, {0}},
    {"query", op_query, {0}},
    {"version", op_version, {0}},
    {"request_field", op_request_field, {.argument = ACCESS_NEEDED}},
    {"request_id", op_request_id, {0}},
    {"trace_id", op_trace_id, {0}},
    {"request_bytes", op_request_bytes, {0}},
    {"status", op_status, {0}},
    {"status_text", op_status_text, {.argument = ACCESS_OPTIONAL}},
    {"ws_outcome", op_ws_outcome, {0}},
    {"response_field", op_response_field, {.argument = ACCESS_NEEDED, .response_field = true}},
    {"response_bytes", op_response_bytes, {0}},
    {"response_bytes_clf", op_response_bytes_clf, {0}},
    {"time_clf", op_time_clf, {0}},
    {"time_iso", op_time_iso, {0}},
    {"duration_us", op_duration_us, {0}},
    {"duration_ms", op_duration_ms, {0}},
    {"duration_s", op_duration_s, {0}},
    {"duration_decimal", op_duration_decimal, {0}},
    {"first_byte_us", op_first_byte_us, {0}},
};

int
access_op_named(const char *name)
{
    for (size_t i = 0; i < sizeof(OPS) / sizeof(OPS[0]); i++)
        if (strcmp(OPS[i].name, name) == 0)
            return (int)i;
    return -1;
}

AccessOpFacts
access_op_facts(int op)
{
    return OPS[op].facts;
}

bool
access_op_run(AccessLog *log, const AccessEntry *entry, const Step *step)
{
    return OPS[step->op].run(log, entry, step->argument);
}
