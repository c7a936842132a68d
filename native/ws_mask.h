/* WebSocket masking, RFC 6455 §5.3. Pure: nothing but the caller's bytes. */
#ifndef SHARDSERVE_WS_MASK_H
#define SHARDSERVE_WS_MASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* to[i] = from[i] ^ key[i % 4] for `length` bytes. `to` may be `from`; otherwise they do not overlap. Returns whether every
 * byte written is ASCII. */
bool ws_unmask(char *to, const char *from, size_t length, const uint8_t key[4]);

#endif
