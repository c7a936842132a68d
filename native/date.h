/* The Date field, rendered once a second. No Python.h. */
#ifndef SHARDSERVE_DATE_H
#define SHARDSERVE_DATE_H

#include <time.h>

#define DATE_LINE_LENGTH 37

/* Zero-initialised is a valid, empty cache. */
typedef struct {
    time_t second;
    char line[DATE_LINE_LENGTH + 1];
} DateCache;

/* RFC 9110 §6.6.1: "date: Sun, 06 Nov 1994 08:49:37 GMT" CRLF, DATE_LINE_LENGTH bytes for `now`. Borrowed
 * from the cache until the next call. */
const char *date_line(DateCache *cache, time_t now);

#endif
