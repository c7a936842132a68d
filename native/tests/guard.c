/* See guard.h. */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include "guard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

Guarded
guard_room(size_t length)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t body = (length + page - 1) / page * page;
    Guarded guarded = {.length = length, .map_length = body + page};
    guarded.map = mmap(NULL, guarded.map_length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guarded.map == MAP_FAILED || mprotect((char *)guarded.map + body, page, PROT_NONE) != 0) {
        perror("guard");
        exit(2);
    }
    guarded.text = (char *)guarded.map + body - length;
    return guarded;
}

Guarded
guard_copy(const void *data, size_t length)
{
    Guarded guarded = guard_room(length);
    if (length > 0)
        memcpy(guarded.text, data, length);
    return guarded;
}

void
guard_free(Guarded *guarded)
{
    munmap(guarded->map, guarded->map_length);
    guarded->text = NULL;
}
