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
    websocket->queue_room = WS_QUEUE_INLINE;
    websocket->state = WS_OPENING;
    PyObject_GC_Track(websocket);
    return websocket;
}

/* ---- the queue ---- */

static PyObject **
queue_slots(WebSocket *websocket)
{
    return websocket->queue != NULL ? websocket->queue : websocket->inline_queue;
}

/* Its size in memory, nearly: what a str or bytes object holds. */
static int64_t
message_bytes(PyObject *message)
{
    return PyBytes_CheckExact(message) ? PyBytes_GET_SIZE(message)
                                       : PyUnicode_GET_LENGTH(message) * (int64_t)PyUnicode_KIND(message);
}

/* Twice the room. 0, or -1 with MemoryError. */
static int
queue_grow(WebSocket *websocket)
{
    PyObject **slots = queue_slots(websocket);
    PyObject **wider = PyMem_New(PyObject *, (size_t)websocket->queue_room * 2);
    if (wider == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (int i = 0; i < websocket->queue_count; i++)
        wider[i] = slots[(websocket->queue_first + i) % websocket->queue_room];
    PyMem_Free(websocket->queue);
    websocket->queue = wider;
    websocket->queue_first = 0;
    websocket->queue_room *= 2;
    return 0;
}

int
websocket_queue(WebSocket *websocket, PyObject *message)
{
    if (UNLIKELY(websocket->queue_count == websocket->queue_room) && queue_grow(websocket) < 0) {
        Py_DECREF(message);
        return -1;
    }
    int at = (websocket->queue_first + websocket->queue_count) % websocket->queue_room;
    queue_slots(websocket)[at] = message;
    websocket->queue_count++;
    websocket->queue_bytes += message_bytes(message);
    return 0;
}

PyObject *
websocket_unqueue(WebSocket *websocket)
{
    if (websocket->queue_count == 0)
        return NULL;
    PyObject *message = queue_slots(websocket)[websocket->queue_first];
    websocket->queue_first = (websocket->queue_first + 1) % websocket->queue_room;
    websocket->queue_bytes -= message_bytes(message);
    if (--websocket->queue_count == 0) {
        websocket->queue_first = 0;
        if (websocket->queue != NULL) {
            /* A burst is over: an idle connection costs nothing for it. */
            PyMem_Free(websocket->queue);
            websocket->queue = NULL;
            websocket->queue_room = WS_QUEUE_INLINE;
        }
    }
    return message;
}

bool
websocket_is_full(const WebSocket *websocket)
{
    return websocket->queue_count >= websocket->factory->limits.ws_max_queue ||
           (websocket->queue_count > 0 && websocket->queue_bytes >= WS_QUEUE_HIGH_BYTES);
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
