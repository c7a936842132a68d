/* What must hold of the pure leaves for any input. Shared by the tests and the fuzzers; each aborts
 * with a message when a property is broken. `text` is guarded on its right (guard.h). */
#ifndef SHARDSERVE_LEAVES_H
#define SHARDSERVE_LEAVES_H

#include <stddef.h>

/* Prints where and aborts unless `condition`. */
#define MUST(condition) leaves_must((condition), #condition, __FILE__, __LINE__)
void leaves_must(int condition, const char *text, const char *file, int line);

/* Every function of chars.h against a plain re-statement of its comment. */
void leaves_check_chars(const char *text, size_t length);

/* Every function of line.h, likewise. */
void leaves_check_line(const char *text, size_t length);

/* ws_leaves.c: every function of ws_frame.h on `text` as the beginning of a frame, cut at every byte of its header. */
void leaves_check_ws_frame(const char *text, size_t length);

/* ws_mask.h on `length` bytes at `masked`, each way it can be called. */
void leaves_check_ws_mask(const char *masked, size_t length, const unsigned char key[4]);

#endif
