/* The way in: bytes -> frames -> messages -> app (RFC 6455 §5). See websocket.h.
 *
 * A frame is looked at when it is whole; until then its beginning is kept. The exception is a header that cannot be right:
 * the engine hears of it at once, so that nothing is gathered for it. What the app is not ready for stays unparsed.
 */
#include "websocket.h"

#include "output.h"
#include "ws_frame.h"
#include "ws_mask.h"

/* Frames given to the engine before the loop's next turn: thousands fit into one read. */
#define ENGINE_FRAMES_A_TURN 64
/* How often the app may empty its queue before the loop's next turn: a full read of large messages fits. */
#define ROUNDS_A_TURN 8
/* The first room for a frame that has just begun. */
#define PARTIAL_BYTES 4096
/* Texts up to this are unmasked on the stack if they are not ASCII. */
#define SMALL_TEXT_BYTES 1024

/* ---- messages ---- */

/* The engine's events, as shardserve/ws/engine.py has them. */
typedef enum { EVENT_NOTHING, EVENT_MESSAGE, EVENT_PONG, EVENT_CLOSED, EVENT_FAILED } Event;

static int
take_message(WebSocket *websocket, PyObject *message)
{
    websocket->messages++;
    figures_add(&websocket->factory->figures, FIGURE_ws_messages_received);
    return websocket_queue(websocket, message);
}

/* A payload as bytes. New reference; NULL with MemoryError. */
static PyObject *
binary_message(const WsFrame *frame, const char *payload)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)frame->length);
    if (bytes != NULL)
        ws_unmask(PyBytes_AS_STRING(bytes), payload, (size_t)frame->length, frame->key);
    return bytes;
}

/* Text that is not all ASCII. New reference; NULL with UnicodeDecodeError or MemoryError. */
static PyObject *
decode_text(const WsFrame *frame, const char *payload)
{
    char small[SMALL_TEXT_BYTES];
    size_t length = (size_t)frame->length;
    char *plain = length <= sizeof(small) ? small : PyMem_Malloc(length);
    if (plain == NULL)
        return PyErr_NoMemory();
    ws_unmask(plain, payload, length, frame->key);
    PyObject *text = PyUnicode_DecodeUTF8(plain, (Py_ssize_t)length, NULL);
    if (plain != small)
        PyMem_Free(plain);
    return text;
}

/* A payload as str. New reference; NULL with UnicodeDecodeError or MemoryError. */
static PyObject *
text_message(const WsFrame *frame, const char *payload)
{
    if (UNLIKELY(frame->length == 0))
        return PyUnicode_FromStringAndSize(NULL, 0);
    PyObject *text = PyUnicode_New((Py_ssize_t)frame->length, 127);
    if (text == NULL || ws_unmask((char *)PyUnicode_1BYTE_DATA(text), payload, (size_t)frame->length, frame->key))
        return text;
    Py_DECREF(text);
    return decode_text(frame, payload);
}

/* ---- the engine ---- */

/* What the engine made of a frame. May run Python. */
static void
obey_engine(Connection *connection, WebSocket *websocket, PyObject *answer)
{
    PyObject *peer, *payload, *reason, *output;
    int event;
    if (!PyTuple_Check(answer) || PyTuple_GET_SIZE(answer) != 5) {
        PyErr_Format(PyExc_TypeError, "the WebSocket engine's receive() gave %.80s", Py_TYPE(answer)->tp_name);
        websocket_engine_failed(connection, websocket);
        return;
    }
    if (!PyArg_ParseTuple(answer, "OiOUS", &peer, &event, &payload, &reason, &output) ||
        websocket_write(connection, output) < 0) {
        websocket_engine_failed(connection, websocket);
        return;
    }
    websocket->answers_wait = connection->write_paused && PyBytes_GET_SIZE(output) > 0;
    Py_XSETREF(websocket->peer, peer == Py_None ? NULL : Py_NewRef(peer));
    long code = event >= EVENT_CLOSED ? PyLong_AsLong(payload) : 0;
    bool is_message = event == EVENT_MESSAGE && (PyUnicode_CheckExact(payload) || PyBytes_CheckExact(payload));
    if (PyErr_Occurred() || event < EVENT_NOTHING || event > EVENT_FAILED || (event == EVENT_MESSAGE && !is_message)) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_TypeError, "the WebSocket engine's receive() gave event %d, %.80s", event,
                         Py_TYPE(payload)->tp_name);
        websocket_engine_failed(connection, websocket);
        return;
    }
    if (is_message && take_message(websocket, Py_NewRef(payload)) < 0)
        websocket_engine_failed(connection, websocket);
    if (event == EVENT_PONG && connection->deadline == DEADLINE_WS_PONG)
        deadline_start(connection, DEADLINE_WS_PING);
    if (event >= EVENT_CLOSED)
        websocket_end(connection, websocket, (int)code, reason, event == EVENT_FAILED);
    if (event == EVENT_FAILED) {
        const char *text = PyUnicode_AsUTF8(reason);
        if (text == NULL)
            PyErr_Clear();
        connection_report(connection, (int)code, text == NULL ? "" : text);
    }
}

/* Gives the engine a frame, or a header that cannot be right. May run Python. */
static void
ask_engine(Connection *connection, WebSocket *websocket, const char *text, Py_ssize_t length)
{
    const State *state = connection->factory->state;
    PyObject *frame = PyBytes_FromStringAndSize(text, length);
    PyObject *answer = NULL;
    if (frame != NULL) {
        PyObject *peer = Py_NewRef(websocket->peer == NULL ? Py_None : websocket->peer);
        PyObject *extensions = Py_NewRef(websocket->extensions == NULL ? Py_None : websocket->extensions);
        PyObject *args[4] = {connection->factory->websocket, peer, extensions, frame};
        answer = PyObject_VectorcallMethod(state->names.receive, args, 4 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        Py_DECREF(peer);
        Py_DECREF(extensions);
        Py_DECREF(frame);
    }
    if (websocket->state != WS_OPEN) /* it ended meanwhile */
        PyErr_Clear();
    else if (answer == NULL)
        websocket_engine_failed(connection, websocket);
    else
        obey_engine(connection, websocket, answer);
    Py_XDECREF(answer);
}

/* ---- frames ---- */

/* Whether the header alone shows that the frame cannot be right, or brings too much. */
static bool
is_hopeless(const WebSocket *websocket, const WsFrame *frame)
{
    if (!frame->masked || frame->length > INT64_MAX)
        return true;
    if (ws_is_control(frame->opcode))
        return frame->opcode > WS_PONG || frame->length > WS_CONTROL_BYTES;
    int64_t before = frame->opcode == WS_CONTINUATION && !websocket->fragment_compressed ? websocket->fragment_bytes : 0;
    return frame->opcode > WS_BINARY || (int64_t)frame->length > websocket->factory->limits.ws_max_size - before;
}

/* What is known of a fragmented message without the engine: how much of it has come. */
static void
note_fragment(WebSocket *websocket, const WsFrame *frame)
{
    if (frame->opcode != WS_CONTINUATION) {
        websocket->fragment_bytes = 0;
        websocket->fragment_compressed = frame->rsv != 0;
    }
    websocket->fragment_bytes = frame->fin ? 0 : websocket->fragment_bytes + (int64_t)frame->length;
}

/* Whether it looks like a whole message of which nobody needs to be asked. */
static bool
is_for_lane(const WebSocket *websocket, const WsFrame *frame)
{
    return frame->fin && frame->rsv == 0 && frame->minimal && websocket->peer == NULL &&
           (frame->opcode == WS_TEXT || frame->opcode == WS_BINARY) && !is_hopeless(websocket, frame);
}

/* The common case. Whether it was one. */
static bool
take_in_lane(WebSocket *websocket, const WsFrame *frame, const char *payload)
{
    if (!is_for_lane(websocket, frame))
        return false;
    PyObject *message = frame->opcode == WS_TEXT ? text_message(frame, payload) : binary_message(frame, payload);
    websocket->turn_given = false;
    if (message != NULL && take_message(websocket, message) == 0)
        return true;
    PyErr_Clear(); /* no UTF-8, or no memory: the engine will say so */
    return false;
}

/* A whole frame, or a header that is_hopeless(). May run Python. */
static void
take_frame(Connection *connection, WebSocket *websocket, const WsFrame *frame, const char *text, int *asked)
{
    if (websocket->state == WS_CLOSING) {
        /* RFC 6455 §1.4: what comes behind our close frame is dropped, up to the client's. */
        if (frame->opcode == WS_CLOSE || is_hopeless(websocket, frame))
            websocket_end(connection, websocket, 0, NULL, frame->opcode != WS_CLOSE);
        return;
    }
    if (take_in_lane(websocket, frame, text + frame->header_bytes))
        return;
    bool hopeless = is_hopeless(websocket, frame);
    if (!hopeless && !ws_is_control(frame->opcode))
        note_fragment(websocket, frame);
    ++*asked;
    ask_engine(connection, websocket, text, frame->header_bytes + (hopeless ? 0 : (Py_ssize_t)frame->length));
    if (hopeless && websocket->state == WS_OPEN) {
        PyErr_SetString(PyExc_ValueError, "the WebSocket engine takes a frame that cannot be right");
        websocket_engine_failed(connection, websocket);
    }
}

/* How many bytes from the beginning of a frame must be there before it is looked at: all of it, or the header if that is
 * enough to know. 0: more of the header must come. */
static uint64_t
needed_bytes(const WebSocket *websocket, const char *text, size_t available, WsFrame *frame)
{
    size_t header_bytes = ws_read_header(text, available, frame);
    if (header_bytes == 0)
        return 0;
    return is_hopeless(websocket, frame) ? header_bytes : header_bytes + frame->length;
}

/* Room for `more` bytes behind the partial frame, of which `whole` (0: not known) are expected. 0, or -1. */
static int
make_room(WebSocket *websocket, Py_ssize_t more, uint64_t whole)
{
    Py_ssize_t least = websocket->partial_bytes + more;
    Py_ssize_t room = websocket->partial == NULL ? 0 : PyBytes_GET_SIZE(websocket->partial);
    if (least <= room)
        return 0;
    room = room == 0 ? WS_CLIENT_HEADER_BYTES : room * 2 < PARTIAL_BYTES ? PARTIAL_BYTES : room * 2;
    if (room < least)
        room = least;
    if (whole > 0 && (uint64_t)room > whole && whole >= (uint64_t)least)
        room = (Py_ssize_t)whole;
    if (websocket->partial == NULL)
        websocket->partial = PyBytes_FromStringAndSize(NULL, room);
    else
        (void)_PyBytes_Resize(&websocket->partial, room);
    return websocket->partial == NULL ? -1 : 0;
}

/* Appends to the partial frame. 0, or -1 with MemoryError. */
static int
keep_partial(WebSocket *websocket, const char *text, Py_ssize_t length, uint64_t whole)
{
    if (make_room(websocket, length, whole) < 0) {
        websocket->partial_bytes = 0;
        return -1;
    }
    memcpy(PyBytes_AS_STRING(websocket->partial) + websocket->partial_bytes, text, (size_t)length);
    websocket->partial_bytes += length;
    return 0;
}

/* Goes on with a frame of which a part was kept. How many of the bytes it took; -1 with MemoryError. May run Python. */
static Py_ssize_t
take_partial(Connection *connection, WebSocket *websocket, const char *text, Py_ssize_t length, int *asked)
{
    WsFrame frame;
    Py_ssize_t taken = 0;
    uint64_t needed = needed_bytes(websocket, PyBytes_AS_STRING(websocket->partial), (size_t)websocket->partial_bytes, &frame);
    while (needed == 0 && taken < length) { /* the header, byte by byte */
        if (keep_partial(websocket, text + taken++, 1, 0) < 0)
            return -1;
        needed = needed_bytes(websocket, PyBytes_AS_STRING(websocket->partial), (size_t)websocket->partial_bytes, &frame);
    }
    if (needed == 0)
        return taken;
    uint64_t missing = needed - (uint64_t)websocket->partial_bytes;
    Py_ssize_t more = missing < (uint64_t)(length - taken) ? (Py_ssize_t)missing : length - taken;
    if (more > 0 && keep_partial(websocket, text + taken, more, needed) < 0)
        return -1;
    taken += more;
    if ((uint64_t)websocket->partial_bytes < needed)
        return taken;
    PyObject *whole = websocket->partial;
    websocket->partial = NULL;
    websocket->partial_bytes = 0;
    take_frame(connection, websocket, &frame, PyBytes_AS_STRING(whole), asked);
    Py_DECREF(whole);
    return taken;
}

/* Takes what is at `text`: a frame, the rest of one, or the beginning of one. How many of the bytes it took: none if the app
 * should have its turn first, for the frame may end the connection, or has an answer that belongs behind the app's. -1 with
 * MemoryError. May run Python. */
static Py_ssize_t
take_part(Connection *connection, WebSocket *websocket, const char *text, Py_ssize_t length, int *asked)
{
    WsFrame frame;
    if (websocket->partial != NULL)
        return take_partial(connection, websocket, text, length, asked);
    uint64_t needed = needed_bytes(websocket, text, (size_t)length, &frame);
    if (needed == 0 || needed > (uint64_t)length)
        return keep_partial(websocket, text, length, needed) < 0 ? -1 : length;
    if (websocket->queue.count > 0 && !websocket->turn_given && !is_for_lane(websocket, &frame)) {
        websocket->turn_given = true;
        return 0;
    }
    take_frame(connection, websocket, &frame, text, asked);
    return (Py_ssize_t)needed;
}

/* ---- in ---- */

static bool
is_taking(const Connection *connection, const WebSocket *websocket)
{
    return connection->transport != NULL && !connection->closing && websocket->state != WS_CLOSED &&
           !(websocket->answers_wait && connection->write_paused) &&
           !(websocket->state == WS_OPEN && websocket_is_full(websocket));
}

/* Parses `data` from `at` on as far as the app can take it, and holds the rest back. May run Python. */
static void
feed(Connection *connection, PyObject *data, Py_ssize_t at)
{
    WebSocket *websocket = (WebSocket *)Py_NewRef(connection->websocket);
    const char *text = PyBytes_AS_STRING(data);
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    int asked = 0;
    websocket->feeding = true;
    while (at < size && asked < ENGINE_FRAMES_A_TURN && is_taking(connection, websocket)) {
        Py_ssize_t taken = take_part(connection, websocket, text + at, size - at, &asked);
        if (taken < 0) {
            websocket_engine_failed(connection, websocket); /* no memory */
            break;
        }
        if (taken == 0)
            break;
        at += taken;
    }
    websocket->feeding = false;
    if (at < size && connection->transport != NULL && websocket->state != WS_CLOSED)
        connection_hold_back(connection, data, at);
    websocket_wake(connection);
    Py_DECREF(websocket);
}

/* Parses what is held back. May run Python. */
static void
feed_held(Connection *connection)
{
    PyObject *data = connection->unparsed;
    Py_ssize_t at = connection->unparsed_at;
    connection->unparsed = NULL;
    connection->unparsed_at = 0;
    feed(connection, data, at);
    Py_DECREF(data);
}

/* Goes on as long as the app takes what it gets, but leaves the loop to others in between. May run Python. */
static void
feed_while_taken(Connection *connection)
{
    WebSocket *websocket = connection->websocket;
    int rounds = 1;
    for (; rounds < ROUNDS_A_TURN && connection->unparsed != NULL && is_taking(connection, websocket); rounds++)
        feed_held(connection);
    if (connection->unparsed != NULL && is_taking(connection, websocket))
        connection_schedule_resume(connection);
}

void
websocket_data_received(Connection *connection, PyObject *data)
{
    WebSocket *websocket = connection->websocket;
    websocket->alive = true;
    if (websocket->state == WS_CLOSED)
        return;
    if (connection->unparsed != NULL || websocket->feeding || connection->running || connection->feeding) {
        connection_hold_later(connection, data);
        if (!websocket_is_full(websocket))
            connection_schedule_resume(connection);
    }
    else {
        output_cork(connection);
        websocket->turning = true;
        feed(connection, data, 0);
        feed_while_taken(connection);
        websocket->turning = false;
        output_uncork(connection);
    }
    connection_adjust_reading(connection);
}

void
websocket_resume(Connection *connection)
{
    WebSocket *websocket = connection->websocket;
    output_cork(connection);
    if (connection->unparsed != NULL && !websocket->feeding && is_taking(connection, websocket)) {
        websocket->turning = true;
        feed_held(connection);
        feed_while_taken(connection);
        websocket->turning = false;
    }
    if (connection->input_ended && connection->unparsed == NULL && connection->transport != NULL)
        websocket_eof(connection);
    output_uncork(connection);
    connection_adjust_reading(connection);
}

bool
websocket_pauses(const Connection *connection)
{
    return connection->unparsed != NULL && connection->websocket->state == WS_OPEN;
}
