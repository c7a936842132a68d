/* Fields by which a proxy says on whose behalf it comes. See forwarded.h. */
#include "forwarded.h"

bool
forwarded_is_field(PyObject *name)
{
    const char *text = PyBytes_AS_STRING(name);
    Py_ssize_t length = PyBytes_GET_SIZE(name);
    if (length == 9)
        return memcmp(text, "forwarded", 9) == 0;
    return length > 12 && memcmp(text, "x-forwarded-", 12) == 0;
}

/* The first of them. Borrowed; NULL: there is none any more. The WebSocket engine has seen the list. */
static PyObject *
first_field(const Cycle *cycle)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(cycle->headers); i++) {
        PyObject *pair = PyList_GET_ITEM(cycle->headers, i);
        PyObject *name = PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2 ? PyTuple_GET_ITEM(pair, 0) : NULL;
        if (name != NULL && PyBytes_CheckExact(name) && forwarded_is_field(name))
            return name;
    }
    return NULL;
}

/* Once for a factory. May run Python. */
static void
tell_untrusted(Connection *connection, const Cycle *cycle)
{
    Factory *factory = connection->factory;
    PyObject *name = first_field(cycle);
    if (factory->told_untrusted || name == NULL)
        return;
    factory->told_untrusted = true;
    PyObject *proxy = Py_NewRef(factory->proxy);
    PyObject *client = Py_NewRef(connection->client);
    Py_INCREF(name);
    PyObject *result = call_method2(proxy, factory->state->names.untrusted, client, name);
    if (result == NULL)
        PyErr_WriteUnraisable(proxy);
    Py_XDECREF(result);
    Py_DECREF(name);
    Py_DECREF(client);
    Py_DECREF(proxy);
}

int
forwarded_apply(Connection *connection, Cycle *cycle, PyObject *scope)
{
    const State *state = connection->factory->state;
    if (!connection->trusted) {
        tell_untrusted(connection, cycle);
        return 0;
    }
    PyObject *proxy = Py_NewRef(connection->factory->proxy);
    PyObject *result = call_method1(proxy, state->names.apply, scope);
    PyObject *client = result == NULL ? NULL : PyDict_GetItemWithError(scope, state->names.client);
    int answer = client == NULL && PyErr_Occurred() ? -1 : 0;
    if (answer < 0)
        PyErr_WriteUnraisable(proxy);
    else if (client != NULL && client != cycle->client)
        Py_XSETREF(cycle->client, Py_NewRef(client));
    Py_XDECREF(result);
    Py_DECREF(proxy);
    return answer;
}
