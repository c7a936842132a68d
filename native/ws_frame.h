/* WebSocket frame headers, RFC 6455 §5.2: read and written. Pure: nothing but the caller's bytes. */
#ifndef SHARDSERVE_WS_FRAME_H
#define SHARDSERVE_WS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    WS_CONTINUATION = 0,
    WS_TEXT = 1,
    WS_BINARY = 2,
    WS_CLOSE = 8,
    WS_PING = 9,
    WS_PONG = 10,
} WsOpcode;

/* The longest payload of a control frame (RFC 6455 §5.5). */
#define WS_CONTROL_BYTES 125
/* The longest header: of a client's frame (with its masking key), and of ours. */
#define WS_CLIENT_HEADER_BYTES 14
#define WS_SERVER_HEADER_BYTES 10

typedef struct {
    uint64_t length;     /* of the payload */
    uint8_t key[4];      /* the masking key; zeros if not masked */
    uint8_t header_bytes;
    uint8_t opcode;      /* 0 to 15 */
    uint8_t rsv;         /* RSV1 to RSV3, as 4, 2 and 1 */
    bool fin;
    bool masked;
    bool minimal;        /* the length has no shorter form; one of 2^63 or more has none at all */
} WsFrame;

/* Reads the frame header at `text`, of which `available` bytes are there. Its length in bytes (2 to 14), or 0 with
 * *frame undefined: more must come. */
size_t ws_read_header(const char *text, size_t available, WsFrame *frame);

/* Whether the opcode means a control frame. */
static inline bool
ws_is_control(uint8_t opcode)
{
    return (opcode & 8) != 0;
}

/* Writes the header of a whole, unmasked message at `to`, where WS_SERVER_HEADER_BYTES have room. Returns its end. */
char *ws_put_header(char *to, WsOpcode opcode, uint64_t length);

#endif
