/* How a connection arrives. See arrival.h.
 *
 * What never changes is found out here, once: the requests copy it.
 */
#include "arrival.h"

#include "accesslog.h"
#include "connection.h"
#include "http2.h"
#include "output.h"
#include "scope.h"

/* ---- told beforehand ---- */

static bool
is_address(PyObject *value)
{
    return value == Py_None || (PyTuple_CheckExact(value) && PyTuple_GET_SIZE(value) == 2);
}

PyObject *
arrival_set_addresses(PyObject *self, PyObject *args, PyObject *kwargs)
{
    Connection *connection = (Connection *)self;
    static char *const names[] = {"client", "server", "scheme", NULL};
    PyObject *client, *server, *scheme = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O:set_addresses", (char **)names, &client, &server, &scheme))
        return NULL;
    if (!is_address(client) || !is_address(server) || (scheme != Py_None && !PyUnicode_Check(scheme))) {
        PyErr_SetString(PyExc_TypeError, "set_addresses() takes (host, port) or None, twice, and a str or None");
        return NULL;
    }
    if (connection->transport != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "set_addresses() after connection_made()");
        return NULL;
    }
    PyObject *announced = PyTuple_Pack(3, client, server, scheme);
    if (announced == NULL)
        return NULL;
    Py_XSETREF(connection->announced, announced);
    Py_RETURN_NONE;
}

/* What was announced, by its place; NULL: nothing. Borrowed. */
static PyObject *
announced(const Connection *connection, Py_ssize_t place)
{
    PyObject *value = connection->announced == NULL ? Py_None : PyTuple_GET_ITEM(connection->announced, place);
    return value == Py_None ? NULL : value;
}

/* ---- asked of the transport ---- */

/* transport.get_extra_info(name): new reference, NULL with an exception. May run Python. */
static PyObject *
extra_info(const Connection *connection, PyObject *transport, PyObject *name)
{
    return call_method1(transport, connection->factory->state->names.get_extra_info, name);
}

/* ASGI: [host, port], or for a Unix socket [path, None] (server) and nothing (client). New reference, or NULL with an
 * exception. May run Python. */
static PyObject *
asgi_address(const Connection *connection, PyObject *transport, bool server)
{
    const State *state = connection->factory->state;
    PyObject *known = announced(connection, server);
    if (known != NULL)
        return Py_NewRef(known);
    PyObject *address = extra_info(connection, transport, server ? state->names.sockname : state->names.peername);
    if (address == NULL)
        return NULL;
    PyObject *result;
    if (PyTuple_Check(address) && PyTuple_GET_SIZE(address) >= 2)
        result = PyTuple_GetSlice(address, 0, 2);
    else if (server && PyUnicode_Check(address) && PyUnicode_GET_LENGTH(address) > 0)
        result = PyTuple_Pack(2, address, Py_None);
    else
        result = Py_NewRef(Py_None);
    Py_DECREF(address);
    return result;
}

/* The descriptor of the socket below `transport`, -1 if there is none, or -2 with an exception. May run Python. */
static int
socket_below(const Connection *connection, PyObject *transport)
{
    const State *state = connection->factory->state;
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

/* The tls extension: a new dict; None where the connection has no TLS, or nobody tells; NULL with an exception. May run
 * Python. */
static PyObject *
tls_extension(const Connection *connection, PyObject *ssl_object)
{
    PyObject *tls_info = connection->factory->tls_info;
    if (ssl_object == Py_None || tls_info == NULL)
        return Py_NewRef(Py_None);
    Py_INCREF(tls_info);
    PyObject *tls = PyObject_CallOneArg(tls_info, ssl_object);
    if (tls != NULL && !PyDict_CheckExact(tls)) { /* copying one of another type may run Python */
        PyErr_Format(PyExc_TypeError, "tls_info() gave %.80s, not a dict", Py_TYPE(tls)->tp_name);
        Py_CLEAR(tls);
    }
    Py_DECREF(tls_info);
    return tls;
}

/* The scope's fixed part. New dict; NULL with an exception. May run Python. */
static PyObject *
fixed_scope(const Connection *connection, PyObject *transport, PyObject *client, PyObject *ssl_object)
{
    const Factory *factory = connection->factory;
    PyObject *scheme = announced(connection, 2);
    if (scheme == NULL)
        scheme = ssl_object == Py_None ? factory->scheme : factory->state->names.https;
    Py_INCREF(scheme);
    PyObject *tls = tls_extension(connection, ssl_object);
    PyObject *server = tls == NULL ? NULL : asgi_address(connection, transport, true);
    PyObject *scope = server == NULL ? NULL : scope_template(factory, client, server, scheme, tls == Py_None ? NULL : tls);
    Py_DECREF(scheme);
    Py_XDECREF(tls);
    Py_XDECREF(server);
    return scope;
}

/* Whether the word of `client` is taken. May run Python. */
static bool
is_trusted(const Connection *connection, PyObject *client)
{
    PyObject *proxy = Py_XNewRef(connection->factory->proxy);
    if (proxy == NULL)
        return false;
    PyObject *answer = call_method1(proxy, connection->factory->state->names.trusts, client);
    int trusted = answer == NULL ? -1 : PyObject_IsTrue(answer);
    if (trusted < 0)
        PyErr_WriteUnraisable(proxy);
    Py_XDECREF(answer);
    Py_DECREF(proxy);
    return trusted > 0;
}

/* What the TLS object calls its version, for the access log; nothing if nobody asks, or on an error. May run Python. */
static void
read_tls_version(Connection *connection, PyObject *ssl_object)
{
    const Factory *factory = connection->factory;
    if (ssl_object == Py_None || factory->access_log == NULL || !factory->access_log->wants_tls)
        return;
    PyObject *version = call_method0(ssl_object, factory->state->names.version);
    if (version == NULL)
        PyErr_WriteUnraisable(ssl_object);
    Py_XSETREF(connection->tls_version, version);
}

/* The addresses, TLS and the scope's fixed part. 0, or -1. May run Python. */
static int
read_transport(Connection *connection, PyObject *transport)
{
    PyObject *tls = extra_info(connection, transport, connection->factory->state->names.ssl_object);
    PyObject *client = tls == NULL ? NULL : asgi_address(connection, transport, false);
    PyObject *base = client == NULL ? NULL : fixed_scope(connection, transport, client, tls);
    if (base != NULL) {
        connection->secure = tls != Py_None;
        connection->trusted = is_trusted(connection, client);
        Py_XSETREF(connection->client, Py_NewRef(client));
        Py_XSETREF(connection->scope_base, Py_NewRef(base));
        read_tls_version(connection, tls);
    }
    Py_XDECREF(tls);
    Py_XDECREF(client);
    Py_XDECREF(base);
    return base == NULL ? -1 : 0;
}

/* ---- too many ---- */

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
    output_cork(connection);
    connection_reject(connection, 503, "too many connections (limit-connections)");
    output_uncork(connection);
}

/* ---- arrived ---- */

/* Whether the client and TLS have agreed on HTTP/2 (RFC 9113 §3.2). What cannot be asked says no. May run Python. */
static bool
agreed_on_http2(const Connection *connection, PyObject *transport)
{
    const Factory *factory = connection->factory;
    if (!connection->secure || !factory->http2_alpn)
        return false;
    PyObject *tls = extra_info(connection, transport, factory->state->names.ssl_object);
    PyObject *agreed = tls == NULL ? NULL : call_method0(tls, factory->state->names.selected_alpn_protocol);
    bool is_h2 = agreed != NULL && PyUnicode_Check(agreed) && PyUnicode_CompareWithASCIIString(agreed, "h2") == 0;
    if (agreed == NULL)
        PyErr_WriteUnraisable(transport);
    Py_XDECREF(agreed);
    Py_XDECREF(tls);
    return is_h2;
}

/* Our SETTINGS leave at once. May run Python. */
static void
begin_http2(Connection *connection)
{
    output_cork(connection);
    (void)http2_begin(connection);
    output_uncork(connection);
}

PyObject *
arrival_connection_made(PyObject *self, PyObject *transport)
{
    Connection *connection = (Connection *)self;
    Factory *factory = connection->factory;
    if (connection->transport != NULL || factory->closed) {
        PyErr_SetString(PyExc_RuntimeError, "connection_made() on a connection in use or a closed factory");
        return NULL;
    }
    PyObject *parser = PyObject_CallOneArg(factory->state->HttpRequestParser, self);
    int fd = parser == NULL ? -2 : socket_below(connection, transport);
    if (fd == -2 || read_transport(connection, transport) < 0) {
        Py_XDECREF(parser);
        return NULL;
    }
    bool is_h2 = agreed_on_http2(connection, transport);
    if (connection->transport != NULL || connection->closing) {
        Py_DECREF(parser);
        PyErr_SetString(PyExc_RuntimeError, "the connection ended inside connection_made()");
        return NULL;
    }
    Py_CLEAR(connection->announced);
    connection->parser = parser;
    connection->transport = Py_NewRef(transport);
    connection->fd = connection->secure ? -1 : fd;
    connection->queue_fd = fd;
    list_append(&factory->connections, &connection->all);
    factory->connection_count++;
    figures_add(&factory->figures, FIGURE_accepted);
    deadline_start(connection, DEADLINE_FIRST_BYTE);
    if (UNLIKELY(fd >= factory->crowded_fd))
        report_crowded(factory);
    if (is_h2 && connection->transport != NULL && !connection->closing)
        begin_http2(connection);
    if (UNLIKELY(factory->connection_count - factory->turned_away_count > factory->limits.connections))
        turn_away(connection);
    connection_check(connection);
    Py_RETURN_NONE;
}
