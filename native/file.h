/* Files as response bodies, over HTTP/1.1: sendfile(2) where the connection is plain, copies where it is not.
 *
 * A short file is read and sent like any body. A longer one stays with its connection until the client has taken it
 * (Connection.file); meanwhile send() waits, and the next request is not begun. When the socket is full, the transport
 * gets a small piece to wait with: once that is written it resumes us.
 */
#ifndef SHARDSERVE_FILE_H
#define SHARDSERVE_FILE_H

#include "connection.h"

/* Up to this, reading costs less than another system call or two. */
#define FILE_SMALL_BYTES 32768

/* Up to `length` bytes of `fd` from `offset` on. New bytes, shorter only at the end of the file; NULL with an exception. */
PyObject *file_read_part(int fd, int64_t offset, int64_t length);

/* A part that is read at once, as a body like any other. 0, or -1 with an exception. May run Python. */
int file_send_small(Cycle *cycle, int fd, int64_t offset, int64_t length, bool more);

/* Wire.file: sends a part of `fd`, which is taken over. 0, or -1 with an exception. May run Python. */
int file_send(Cycle *cycle, int fd, int64_t offset, int64_t length, bool more);

/* Goes on with Connection.file, as far as there is room. May run Python. */
void file_pump(Connection *connection);

/* How much of Connection.file has not been taken by the socket or the transport; 0 if there is none. */
int64_t file_left(const Connection *connection);

/* Lets go of Connection.file, if there is one: it will not be sent. Runs no Python. */
void file_drop(Connection *connection);

#endif
