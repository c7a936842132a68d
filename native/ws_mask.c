/* WebSocket masking. See ws_mask.h. */
#include "ws_mask.h"

#include <string.h>

/* Sixteen bytes at a time, in whatever registers the machine has (GCC and Clang: "vector extensions"). Wider ones are not
 * in every x86-64; two or four of these in a turn gain nothing that can be measured below 64 KiB. */
typedef uint32_t Vector __attribute__((vector_size(16)));

#define HIGH_BITS UINT64_C(0x8080808080808080)

bool
ws_unmask(char *to, const char *from, size_t length, const uint8_t key[4])
{
    uint32_t word;
    memcpy(&word, key, sizeof(word));
    /* From the register: four bytes put together in memory first cost more than 64 bytes of payload. */
    const Vector mask = {word, word, word, word};
    Vector seen = mask ^ mask;
    size_t at = 0;
    for (; length - at >= sizeof(Vector); at += sizeof(Vector)) {
        Vector plain;
        memcpy(&plain, from + at, sizeof(plain));
        plain ^= mask;
        memcpy(to + at, &plain, sizeof(plain));
        seen |= plain;
    }
    uint64_t halves[2];
    memcpy(halves, &seen, sizeof(halves));
    uint64_t high = halves[0] | halves[1];
    /* The rest: a multiple of four is always behind, so the key begins anew. */
    if (length - at >= 8) {
        uint64_t plain;
        memcpy(&plain, from + at, sizeof(plain));
        plain ^= (uint64_t)word << 32 | word;
        memcpy(to + at, &plain, sizeof(plain));
        high |= plain;
        at += sizeof(plain);
    }
    if (length - at >= 4) {
        uint32_t plain;
        memcpy(&plain, from + at, sizeof(plain));
        plain ^= word;
        memcpy(to + at, &plain, sizeof(plain));
        high |= plain;
        at += sizeof(plain);
    }
    for (; at < length; at++) {
        uint8_t plain = (uint8_t)from[at] ^ key[at & 3];
        to[at] = (char)plain;
        high |= plain;
    }
    return (high & HIGH_BITS) == 0;
}
