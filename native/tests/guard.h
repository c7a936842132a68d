/* A copy of the input that ends where memory ends: one byte read too far is a SIGSEGV, sanitizer or not. */
#ifndef SHARDSERVE_GUARD_H
#define SHARDSERVE_GUARD_H

#include <stddef.h>

typedef struct {
    char *text; /* the copy; text[length] is not mapped */
    size_t length;
    void *map;
    size_t map_length;
} Guarded;

/* Copies `length` bytes so that they end at a page that nobody may touch. Exits when mmap fails. */
Guarded guard_copy(const void *data, size_t length);

/* Room for `length` bytes, likewise. */
Guarded guard_room(size_t length);

/* Unmaps it. */
void guard_free(Guarded *guarded);

#endif
