/* What the fields of a request mean for the wire: names, framing, Host, expectations. Called by request.c. */
#ifndef SHARDSERVE_FIELDS_H
#define SHARDSERVE_FIELDS_H

#include "connection.h"

/* The Transfer-Encoding of a request (RFC 9112 §6.1). */
typedef enum {
    CODING_NONE,
    CODING_CHUNKED, /* chunked, alone */
    CODING_OTHER,   /* known codings, but not chunked: the body would have no end */
    CODING_STACKED, /* known codings, then chunked: we do not undo them */
    CODING_BAD,
} Coding;

/* What becomes of a field whose name has an underscore. CGI and WSGI fold x_y and x-y into one variable, so that such
 * a field can pass for one that a proxy has checked. */
typedef enum {
    UNDERSCORES_SAFE, /* dropped where the name with dashes is in the request, too, or is one that we know */
    UNDERSCORES_ALLOW,
    UNDERSCORES_DROP,
    UNDERSCORES_REJECT,
} Underscores;

/* The policy called `name`, or -1 with ValueError. */
int fields_underscores(const char *name);

/* Counts one more field: 0, or -1: refused, it is over a limit. */
int fields_admit(Connection *connection, Py_ssize_t name_length, Py_ssize_t value_length);

/* Takes one field of the incoming request. 0, or -1: refused. */
int fields_take(Connection *connection, Cycle *cycle, PyObject *name, PyObject *value);

/* Appends a field whose name is in lower case; `known`: it is the shared object of a common one. Steals both, which may be
 * NULL with an exception. 0, or -1: refused. */
int fields_add(Connection *connection, Cycle *cycle, PyObject *name, bool known, PyObject *value);

/* UNDERSCORES_SAFE, of a whole head: drops fields that would pass for others. 0, or -1 with an exception. */
int fields_drop_shadows(const State *state, Cycle *cycle);

/* Forgets what the last head said. */
void fields_begin(Connection *connection);

/* A trailer: dropped (RFC 9110 §6.5.1), never merged into the fields. 0, or -1: refused, it frames or routes. */
int fields_take_trailer(Connection *connection, PyObject *name);

/* Whether a field of this name must not be a trailer: it frames, routes or authorizes (RFC 9110 §6.5.1). */
bool fields_forbid_trailer(const char *name, size_t length);

/* The head is complete: 0, or -1: refused. Drops what `underscores` drops, and puts an absolute target's host into Host. */
int fields_check(Connection *connection, Cycle *cycle);

/* Whether the body that a whole head announces is taken. 0, or -1: refused. */
int fields_check_body(Connection *connection);

/* Fills State.field_names and the field_* pointers. 0, or -1. */
int fields_init_names(State *state);

#endif
