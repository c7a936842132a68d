/* The WebSocket object: made, its queue of messages, its type. See websocket.h for the files that hold the rest. */
#include "websocket.h"

WebSocket *
websocket_new(Factory *factory, PyObject *fields, PyObject *extensions)
{
    WebSocket *websocket = PyObject_GC_New(WebSocket, factory->state->websocket_type);
    if (websocket == NULL)
        return NULL;
    memset((char *)websocket + sizeof(PyObject), 0, sizeof(WebSocket) - sizeof(PyObject));
    websocket->factory = (Factory *)Py_NewRef(factory);
    websocket->fields = Py_NewRef(fields);
    websocket->extensions = extensions == Py_None ? NULL : Py_NewRef(extensions);
    websocket->state = WS_OPENING;
    PyObject_GC_Track(websocket);
    return websocket;
}

/* ---- the queue ---- */

/* Its size in memory, nearly: what a str or bytes object holds. */
static int64_t
message_bytes(PyObject *message)
{
    return PyBytes_CheckExact(message) ? PyBytes_GET_SIZE(message)
                                       : PyUnicode_GET_LENGTH(message) * (int64_t)PyUnicode_KIND(message);
}

int
websocket_queue(WebSocket *websocket, PyObject *message)
{
    if (ring_push(&websocket->queue, message) < 0) {
        Py_DECREF(message);
        return -1;
    }
    websocket->queue_bytes += message_bytes(message);
    return 0;
}

PyObject *
websocket_unqueue(WebSocket *websocket)
{
    PyObject *message = ring_pop(&websocket->queue);
    if (message != NULL)
        websocket->queue_bytes -= message_bytes(message);
    return message;
}

bool
websocket_is_full(const WebSocket *websocket)
{
    return websocket->queue.count >= websocket->factory->limits.ws_max_queue ||
           (websocket->queue.count > 0 && websocket->queue_bytes >= WS_QUEUE_HIGH_BYTES);
}

void
websocket_drop_input(WebSocket *websocket)
{
    websocket->partial_bytes = 0;
    Py_CLEAR(websocket->partial);
    Py_CLEAR(websocket->peer);
}

/* ---- type ---- */

static int
websocket_traverse(PyObject *self, visitproc visit, void *arg)
{
    WebSocket *websocket = (WebSocket *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(websocket->factory);
    Py_VISIT(websocket->fields);
    Py_VISIT(websocket->extensions);
    Py_VISIT(websocket->peer);
    return 0; /* the messages are str and bytes */
}

static int
websocket_clear(PyObject *self)
{
    WebSocket *websocket = (WebSocket *)self;
    Py_CLEAR(websocket->fields);
    Py_CLEAR(websocket->extensions);
    Py_CLEAR(websocket->peer);
    return 0;
}

static void
websocket_dealloc(PyObject *self)
{
    WebSocket *websocket = (WebSocket *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    websocket_clear(self);
    PyObject *message;
    while ((message = websocket_unqueue(websocket)) != NULL)
        Py_DECREF(message);
    Py_CLEAR(websocket->partial);
    Py_CLEAR(websocket->close_reason);
    Py_CLEAR(websocket->factory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot websocket_slots[] = {
    {Py_tp_dealloc, websocket_dealloc},
    {Py_tp_traverse, websocket_traverse},
    {Py_tp_clear, websocket_clear},
    {0, NULL},
};

PyType_Spec websocket_spec = {
    .name = "shardserve._native.WebSocket",
    .basicsize = sizeof(WebSocket),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = websocket_slots,
};
