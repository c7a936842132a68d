/* Text from the wire, made harmless for a line of a log. Pure, but for the host, which is a str. */
#ifndef SHARDSERVE_ESCAPE_H
#define SHARDSERVE_ESCAPE_H

#include "native.h"

/* The most bytes that one byte, or one character of a str, becomes. */
#define ESCAPE_BYTE_MOST 5
#define ESCAPE_CHARACTER_MOST 11

typedef enum {
    ESCAPE_WORD,  /* the space is escaped, too */
    ESCAPE_WORDS,
} EscapeKind;

/* Writes `length` bytes of `from` at `to`: as they are, if they are printable ASCII and neither the quote nor the backslash,
 * else as \xNN (in JSON: \\xNN, which is the same inside a string). Returns the end. */
char *escape_bytes(char *to, const char *from, size_t length, EscapeKind kind, bool json);

/* The same for the characters of a str; beyond 255 as \uNNNN or \UNNNNNNNN. */
char *escape_text(char *to, PyObject *text, EscapeKind kind, bool json);

/* RFC 7617: the user in "Basic" credentials, at most `room` bytes of it. Returns its length, or -1 if there is none. */
Py_ssize_t escape_basic_user(const char *credentials, size_t length, char *to, size_t room);

/* Whether `text` is matched by `glob`, in which * stands for any bytes and ? for any one. Takes at most the product of the two
 * lengths. */
bool escape_glob(const char *glob, size_t glob_length, const char *text, size_t length);

#endif
