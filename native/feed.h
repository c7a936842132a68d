/* Gives httptools one part of a message at a time, so that it is always known where the next message begins.
 *
 * httptools decides what is a request; what it cannot know, or lets pass, is checked in line.c and fields.c. Its callbacks
 * (request.c) only record: the app never runs below feed_data. Where the parser ends a message elsewhere than we do, the
 * connection is refused: two readers of the same bytes who disagree are how requests are smuggled.
 */
#ifndef SHARDSERVE_FEED_H
#define SHARDSERVE_FEED_H

#include "connection.h"

/* Parses what comes next of the bytes from `text` to `end` (not empty), which are inside `data` (bytes). Returns how many
 * were taken, at least one, or -1: nothing more will be parsed, the connection has been refused or is gone. The caller
 * holds a reference to both. May run Python. */
Py_ssize_t feed_part(Connection *connection, PyObject *data, const char *text, const char *end);

#endif
