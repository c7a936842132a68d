/* The ASGI HTTP scope. See scope.h. */
#include "scope.h"

#include "chars.h"

PyObject *
scope_asgi(const State *state)
{
    PyObject *asgi = PyDict_New();
    PyObject *version = PyUnicode_FromString("3.0");
    /* 2.4: send() raises OSError after the client went (docs/decisions/0002-spec-version.md). */
    PyObject *spec = PyUnicode_FromString("2.4");
    if (asgi == NULL || version == NULL || spec == NULL ||
        PyDict_SetItem(asgi, state->names.version, version) < 0 ||
        PyDict_SetItem(asgi, state->names.spec_version, spec) < 0)
        Py_CLEAR(asgi);
    Py_XDECREF(version);
    Py_XDECREF(spec);
    return asgi;
}

PyObject *
scope_template(const Factory *factory, PyObject *client, PyObject *server, PyObject *scheme, PyObject *tls)
{
    const State *state = factory->state;
    PyObject *scope = PyDict_New();
    if (scope == NULL)
        return NULL;
    const struct {
        PyObject *key;
        PyObject *value;
    } items[] = {
        {state->names.type, state->names.http},
        {state->names.asgi, factory->asgi},
        {state->names.http_version, state->names.version_11},
        {state->names.server, server},
        {state->names.client, client},
        {state->names.scheme, scheme},
        {state->names.root_path, factory->root_path},
        {state->names.extensions, tls == NULL ? Py_None : tls}, /* for own_extensions() */
        {state->names.method, Py_None},
        {state->names.path, Py_None},
        {state->names.raw_path, Py_None},
        {state->names.query_string, state->empty_bytes},
        {state->names.headers, Py_None},
    };
    for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++)
        if (PyDict_SetItem(scope, items[i].key, items[i].value) < 0)
            goto fail;
    if (factory->lifespan_state != NULL && PyDict_SetItem(scope, state->names.state, Py_None) < 0)
        goto fail;
    return scope;
fail:
    Py_XDECREF(scope);
    return NULL;
}

PyObject *
scope_decode_path(const char *raw, Py_ssize_t length)
{
    if (memchr(raw, '%', (size_t)length) == NULL)
        return PyUnicode_DecodeUTF8(raw, length, "replace");
    char small[512];
    char *to = (size_t)length <= sizeof(small) ? small : PyMem_Malloc((size_t)length);
    if (to == NULL)
        return PyErr_NoMemory();
    size_t decoded = chars_percent_decode(to, raw, (size_t)length);
    PyObject *path = PyUnicode_DecodeUTF8(to, (Py_ssize_t)decoded, "replace");
    if (to != small)
        PyMem_Free(to);
    return path;
}

const char *
scope_target(PyObject *target, Py_ssize_t *length)
{
    const char *text = PyBytes_AS_STRING(target);
    const char *end = text + PyBytes_GET_SIZE(target);
    if (UNLIKELY(text[0] != '/' && text[0] != '*')) {
        text = (const char *)memchr(text, ':', (size_t)(end - text)) + 3;
        while (text < end && *text != '/' && *text != '?')
            text++;
    }
    *length = end - text;
    return text;
}

/* RFC 9112 §3.2.1: origin-form = absolute-path [ "?" query ]. Both new references. 0, or -1. */
static int
split_target(const State *state, PyObject *target, PyObject **path, PyObject **query)
{
    Py_ssize_t length;
    const char *text = scope_target(target, &length);
    const char *mark = memchr(text, '?', (size_t)length);
    Py_ssize_t path_length = mark == NULL ? length : mark - text;
    if (path_length == PyBytes_GET_SIZE(target))
        *path = Py_NewRef(target);
    else if (path_length == 0)
        *path = PyBytes_FromStringAndSize("/", 1); /* RFC 9110 §4.2.3: an empty path is "/" */
    else
        *path = PyBytes_FromStringAndSize(text, path_length);
    *query = mark == NULL ? Py_NewRef(state->empty_bytes)
                          : PyBytes_FromStringAndSize(mark + 1, length - path_length - 1);
    if (*path != NULL && *query != NULL)
        return 0;
    Py_CLEAR(*path);
    Py_CLEAR(*query);
    return -1;
}

static int
set_path(const Factory *factory, PyObject *scope, PyObject *raw_path)
{
    const State *state = factory->state;
    PyObject *path = scope_decode_path(PyBytes_AS_STRING(raw_path), PyBytes_GET_SIZE(raw_path));
    PyObject *raw = Py_NewRef(raw_path);
    int result = -1;
    if (path == NULL)
        goto done;
    if (PyBytes_GET_SIZE(factory->root_path_bytes) > 0) {
        /* Uvicorn's --root-path: path and raw_path begin with it. */
        Py_SETREF(path, PyUnicode_Concat(factory->root_path, path));
        Py_SETREF(raw, NULL);
        raw = Py_NewRef(factory->root_path_bytes);
        PyBytes_Concat(&raw, raw_path);
        if (path == NULL || raw == NULL)
            goto done;
    }
    if (PyDict_SetItem(scope, state->names.path, path) == 0)
        result = PyDict_SetItem(scope, state->names.raw_path, raw);
done:
    Py_XDECREF(path);
    Py_XDECREF(raw);
    return result;
}

/* scope[key] = value, which is stolen and may be NULL with an exception. 0, or -1. */
static int
set_own(PyObject *scope, PyObject *key, PyObject *value)
{
    int set = value == NULL ? -1 : PyDict_SetItem(scope, key, value);
    Py_XDECREF(value);
    return set;
}

/* extensions["shardserve.request_id"] = {"id": str}. 0, or -1. */
static int
add_request_id(const Cycle *cycle, PyObject *extensions)
{
    const State *state = cycle->factory->state;
    PyObject *text = PyUnicode_DecodeASCII(PyBytes_AS_STRING(cycle->request_id), PyBytes_GET_SIZE(cycle->request_id), NULL);
    PyObject *details = text == NULL ? NULL : PyDict_New();
    int result = details == NULL ? -1 : PyDict_SetItem(details, state->names.id, text);
    Py_XDECREF(text);
    if (result == 0)
        return set_own(extensions, state->names.request_id, details);
    Py_XDECREF(details);
    return -1;
}

/* scope["extensions"], where the template has left the tls extension or None: `offered` (borrowed) as a dict of the request's
 * own. The dicts in it are shared. 0, or -1. */
static int
own_extensions(const Cycle *cycle, PyObject *scope, PyObject *offered)
{
    const State *state = cycle->factory->state;
    PyObject *tls = PyDict_GetItemWithError(scope, state->names.extensions);
    PyObject *extensions = PyDict_Copy(offered);
    if (extensions != NULL && UNLIKELY(tls != NULL && tls != Py_None) &&
        set_own(extensions, state->names.tls, PyDict_Copy(tls)) < 0)
        Py_CLEAR(extensions);
    if (extensions != NULL && UNLIKELY(cycle->request_id != NULL) && add_request_id(cycle, extensions) < 0)
        Py_CLEAR(extensions);
    return set_own(scope, state->names.extensions, extensions);
}

PyObject *
scope_build(Cycle *cycle, PyObject *scope_base)
{
    const Factory *factory = cycle->factory;
    const State *state = factory->state;
    PyObject *raw_path = NULL;
    PyObject *query = NULL;
    PyObject *scope = PyDict_Copy(scope_base);
    if (scope == NULL || split_target(state, cycle->target, &raw_path, &query) < 0)
        goto fail;
    if (set_path(factory, scope, raw_path) < 0)
        goto fail;
    if (PyDict_SetItem(scope, state->names.method, cycle->method) < 0 ||
        PyDict_SetItem(scope, state->names.headers, cycle->headers) < 0)
        goto fail;
    /* An app may write to them. */
    if (own_extensions(cycle, scope, cycle->version_10 ? factory->extensions_10 : factory->extensions_11) < 0 ||
        set_own(scope, state->names.asgi, PyDict_Copy(factory->asgi)) < 0)
        goto fail;
    if (query != state->empty_bytes && PyDict_SetItem(scope, state->names.query_string, query) < 0)
        goto fail;
    if (cycle->version_10 && PyDict_SetItem(scope, state->names.http_version, state->names.version_10) < 0)
        goto fail;
    if (factory->lifespan_state != NULL &&
        set_own(scope, state->names.state, PyDict_Copy(factory->lifespan_state)) < 0)
        goto fail;
    Py_DECREF(raw_path);
    Py_DECREF(query);
    return scope;
fail:
    Py_XDECREF(raw_path);
    Py_XDECREF(query);
    Py_XDECREF(scope);
    return NULL;
}

PyObject *
scope_build_websocket(Cycle *cycle, PyObject *scope_base, PyObject *subprotocols)
{
    const State *state = cycle->factory->state;
    PyObject *scope = scope_build(cycle, scope_base);
    PyObject *extensions = PyDict_New();
    PyObject *tls = PyDict_GetItemWithError(scope_base, state->names.extensions);
    PyObject *scheme = PyDict_GetItemWithError(scope_base, state->names.scheme);
    bool secure = scheme != NULL && PyUnicode_CompareWithASCIIString(scheme, "https") == 0;
    if (scope != NULL && extensions != NULL &&
        set_own(extensions, state->names.websocket_response, PyDict_New()) == 0 &&
        (tls == NULL || tls == Py_None || set_own(extensions, state->names.tls, PyDict_Copy(tls)) == 0) &&
        (cycle->request_id == NULL || add_request_id(cycle, extensions) == 0) &&
        PyDict_SetItem(scope, state->names.extensions, extensions) == 0 &&
        PyDict_SetItem(scope, state->names.type, state->names.websocket) == 0 &&
        PyDict_SetItem(scope, state->names.scheme, secure ? state->names.wss : state->names.ws) == 0 &&
        PyDict_DelItem(scope, state->names.method) == 0 &&
        set_own(scope, state->names.subprotocols, PySequence_List(subprotocols)) == 0) {
        Py_DECREF(extensions);
        return scope;
    }
    Py_XDECREF(extensions);
    Py_XDECREF(scope);
    return NULL;
}
