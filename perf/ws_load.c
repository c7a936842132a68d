/* ws_load: a WebSocket client that keeps a fixed number of messages in flight and counts their echoes.
 *
 * Rules of this file: the load is a closed loop, so every echo that comes back sends one more message;
 * every byte of every echo is compared with what was sent; and anything out of the ordinary (a refused
 * handshake, a wrong or late echo, a connection that ends) ends the program with exit code 1 and one line
 * on standard error, without a result. A number that it prints is therefore a number of right echoes.
 * RFC 6455 as far as an echo needs it: no extension is offered, no fragments are taken, pings are dropped
 * and not answered, which is right for a run shorter than the server's ping timeout.
 *
 * What a connection sends is a function of the position in it: message n is one frame of known length,
 * whose payload is n as eight hexadecimal digits and then a fixed pattern. So nothing is queued or copied:
 * a partial write goes on at a position, and an echo is compared at a position. All printable, so that it
 * may be sent as text. The masking key is fixed; what unmasking costs a server does not depend on it.
 *
 * Usage: see usage() below. perf/ws_load.py runs it.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <sys/uio.h>

#include "client.h"
#include "histogram.h"

enum {
    SERIAL_SIZE = 8, /* the message's number, hexadecimal, first in its payload */
    MAX_HEAD = 10,   /* of an unmasked frame of up to 2^63 bytes */
    KEY_SIZE = 4,
    MAX_CONTROL = 127, /* a whole control frame */
    BATCH = 64,        /* messages in one writev */
    RESPONSE_SIZE = 8192,
    MAX_DEPTH = 1024,
    MAX_SIZE = 16 * 1024 * 1024,
    CLOSE_GRACE_MS = 1000,
};

enum { OP_TEXT = 0x1, OP_BINARY = 0x2, OP_CLOSE = 0x8, OP_PONG = 0xA, FIN = 0x80, MASKED = 0x80 };

/* The sample handshake of RFC 6455 section 1.3: a known key, so a known answer and no SHA-1 here. */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==";
static const char ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
static const unsigned char MASK[KEY_SIZE] = {0x37, 0xfa, 0x21, 0x3d};

static struct {
    int port, connections, size, depth, hold;
    double seconds, warmup, timeout;
    uint64_t messages; /* in all; 0: as many as fit in seconds */
    int opcode;
} option = {.connections = 64, .size = 64, .depth = 1, .seconds = 1, .timeout = 5, .opcode = OP_BINARY};

struct connection {
    struct wire wire;
    uint64_t goal;     /* messages to send */
    uint64_t written;  /* bytes sent: the position in the stream of frames */
    uint64_t echoed;   /* messages that came back */
    size_t at;         /* bytes of the current echo already compared */
    unsigned char echo_lead[MAX_HEAD + SERIAL_SIZE]; /* what the current echo must begin with */
    unsigned char control[MAX_CONTROL];              /* a control frame that is arriving */
    size_t control_size;
    int64_t *queued_ns; /* when each message in flight was due, by number modulo depth */
};

static struct connection *connections;

static unsigned char head[MAX_HEAD]; /* of a client's frame, which differs from an echo's in the MASKED bit */
static size_t head_size;
static size_t frame_size, echo_size; /* whole frames: the client's, the server's */
static unsigned char *pattern, *masked_pattern; /* the payload after the serial */
static size_t pattern_size;

/* Of the current phase. */
static int64_t stop_ns;
static int stopping;
static uint64_t to_send, in_flight, echoes;
static struct histogram latencies;

static void put_serial(unsigned char *into, uint64_t serial)
{
    static const char digits[] = "0123456789abcdef";
    for (int i = SERIAL_SIZE - 1; i >= 0; i--, serial >>= 4)
        into[i] = (unsigned char)digits[serial & 15];
}

/* Lays out what all frames share: RFC 6455 section 5.2, the shortest length that fits. */
static void prepare_frames(void)
{
    uint64_t size = (uint64_t)option.size;
    head[0] = (unsigned char)(FIN | option.opcode);
    head[1] = size < 126 ? (unsigned char)size : size < 65536 ? 126 : 127;
    head_size = size < 126 ? 2 : size < 65536 ? 4 : 10;
    for (size_t i = 2; i < head_size; i++)
        head[i] = (unsigned char)(size >> (8 * (head_size - 1 - i)));
    frame_size = head_size + KEY_SIZE + size;
    echo_size = head_size + size;
    pattern_size = size - SERIAL_SIZE;
    pattern = allocate(pattern_size + 1);
    masked_pattern = allocate(pattern_size + 1);
    for (size_t i = 0; i < pattern_size; i++) {
        /* A prime period, so that a piece that moved by a power of two is not taken for its neighbour. */
        pattern[i] = (unsigned char)(' ' + i % 89);
        masked_pattern[i] = pattern[i] ^ MASK[(SERIAL_SIZE + i) % KEY_SIZE];
    }
}

/* The bytes of message `serial` before the pattern: head, key, masked serial. Returns how many. */
static size_t put_lead(unsigned char *into, uint64_t serial)
{
    unsigned char *payload = into + head_size + KEY_SIZE;
    memcpy(into, head, head_size);
    into[1] |= MASKED;
    memcpy(into + head_size, MASK, KEY_SIZE);
    put_serial(payload, serial);
    for (int i = 0; i < SERIAL_SIZE; i++)
        payload[i] ^= MASK[i % KEY_SIZE];
    return head_size + KEY_SIZE + SERIAL_SIZE;
}

static void expect(struct connection *c)
{
    memcpy(c->echo_lead, head, head_size);
    put_serial(c->echo_lead + head_size, c->echoed);
}

/* Lays out up to BATCH messages from the position on. Returns the number of parts. */
static int lay_out(const struct connection *c, struct iovec *parts)
{
    static unsigned char leads[BATCH][MAX_HEAD + KEY_SIZE + SERIAL_SIZE];
    uint64_t serial = c->written / frame_size;
    size_t skip = (size_t)(c->written % frame_size);
    int count = 0;
    for (int i = 0; i < BATCH && serial < c->goal; i++, serial++, skip = 0) {
        size_t lead = put_lead(leads[i], serial);
        if (skip < lead)
            parts[count++] = (struct iovec){leads[i] + skip, lead - skip};
        skip = skip > lead ? skip - lead : 0;
        if (skip < pattern_size)
            parts[count++] = (struct iovec){masked_pattern + skip, pattern_size - skip};
    }
    return count;
}

/* Writes until everything due is out or the socket is full. */
static void flush(struct connection *c)
{
    struct iovec parts[2 * BATCH];
    while (c->written < c->goal * frame_size) {
        ssize_t size = writev(c->wire.fd, parts, lay_out(c, parts));
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0 && errno == EAGAIN) {
            want_write(&c->wire, 1);
            return;
        }
        if (size < 0)
            fail(&c->wire, "write: %s", strerror(errno));
        c->written += (uint64_t)size;
    }
    want_write(&c->wire, 0);
}

/* Makes up to `count` more messages due, as far as the phase still sends. */
static void send_more(struct connection *c, uint64_t count, int64_t now)
{
    if (stopping)
        return;
    if (count > to_send)
        count = to_send;
    to_send -= count;
    in_flight += count;
    for (; count > 0; count--)
        c->queued_ns[c->goal++ % (uint64_t)option.depth] = now;
    flush(c);
}

/* Takes one byte of a control frame: such frames are rare. */
static void take_control(struct connection *c, unsigned char byte)
{
    const unsigned char *frame = c->control;
    c->control[c->control_size++] = byte;
    if (c->control_size < 2)
        return;
    if (frame[1] > MAX_CONTROL - 2 || frame[0] < (FIN | OP_CLOSE) || frame[0] > (FIN | OP_PONG))
        fail(&c->wire, "not a control frame: it begins with 0x%02x 0x%02x", frame[0], frame[1]);
    if (c->control_size < 2U + frame[1])
        return;
    if (frame[0] == (FIN | OP_CLOSE))
        fail(&c->wire, "closed by the server with code %d", frame[1] < 2 ? 1005 : frame[2] << 8 | frame[3]);
    c->control_size = 0;
}

/* Compares a piece of the current echo, up to its end. Returns the bytes used. */
static size_t take_echo(struct connection *c, const unsigned char *data, size_t size)
{
    size_t lead = head_size + SERIAL_SIZE;
    int in_lead = c->at < lead;
    const unsigned char *wanted = in_lead ? c->echo_lead + c->at : pattern + (c->at - lead);
    size_t used = (in_lead ? lead : echo_size) - c->at;
    if (used > size)
        used = size;
    if (memcmp(data, wanted, used) != 0) {
        size_t wrong = 0;
        while (data[wrong] == wanted[wrong])
            wrong++;
        fail(&c->wire, "wrong echo: byte %zu of frame %llu is 0x%02x, not 0x%02x", c->at + wrong,
             (unsigned long long)c->echoed, data[wrong], wanted[wrong]);
    }
    c->at += used;
    return used;
}

/* Takes what was read at `now`. Returns the number of echoes that it completed. */
static uint64_t take(struct connection *c, const unsigned char *data, size_t size, int64_t now)
{
    uint64_t before = c->echoed;
    while (size > 0) {
        size_t used = 1;
        if (c->control_size > 0 || (c->at == 0 && (data[0] & OP_CLOSE)))
            take_control(c, data[0]);
        else if (c->echoed == c->goal)
            fail(&c->wire, "a message came that answers none");
        else
            used = take_echo(c, data, size);
        data += used;
        size -= used;
        if (c->at == echo_size) {
            histogram_record(&latencies, now - c->queued_ns[c->echoed++ % (uint64_t)option.depth]);
            c->at = 0;
            expect(c);
        }
    }
    return c->echoed - before;
}

static void read_some(struct connection *c)
{
    static unsigned char data[READ_SIZE];
    ssize_t size = read(c->wire.fd, data, sizeof data);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size < 0)
        fail(&c->wire, "read: %s", strerror(errno));
    if (size == 0)
        fail(&c->wire, "the server ended the connection");
    int64_t now = now_ns();
    uint64_t done = take(c, data, (size_t)size, now);
    echoes += done;
    in_flight -= done;
    if (now >= stop_ns)
        stopping = 1;
    if (done > 0)
        send_more(c, done, now);
}

static void check_response(const struct connection *c, const char *response)
{
    const char *accept = field(response, "sec-websocket-accept");
    if (strncmp(response, "HTTP/1.1 101 ", 13) != 0)
        fail(&c->wire, "handshake refused: %.*s", (int)strcspn(response, "\r\n"), response);
    if (accept == NULL || strncmp(accept, ACCEPT, sizeof ACCEPT - 1) != 0)
        fail(&c->wire, "handshake: wrong or no Sec-WebSocket-Accept");
    if (field(response, "sec-websocket-extensions") != NULL)
        fail(&c->wire, "handshake: an extension that was not offered");
}

/* The opening handshake, on a blocking socket. What came after the response is taken as frames. */
static void shake_hands(struct connection *c)
{
    char text[RESPONSE_SIZE + 1];
    size_t size = 0;
    int wanted = snprintf(text, sizeof text,
                          "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n",
                          option.port, KEY);
    if (wanted >= (int)sizeof text || write(c->wire.fd, text, (size_t)wanted) != wanted)
        fail(&c->wire, "handshake: the request could not be sent");
    for (;;) {
        ssize_t got = size < RESPONSE_SIZE ? read(c->wire.fd, text + size, RESPONSE_SIZE - size) : 0;
        if (got <= 0)
            fail(&c->wire, "handshake: %s", got == 0 ? "the response has no end" : strerror(errno));
        size += (size_t)got;
        text[size] = '\0';
        char *end = strstr(text, "\r\n\r\n");
        if (end != NULL) {
            end[2] = '\0';
            check_response(c, text);
            take(c, (unsigned char *)end + 4, size - (size_t)(end + 4 - text), 0);
            return;
        }
    }
}

static void open_one(struct connection *c)
{
    c->queued_ns = allocate(sizeof *c->queued_ns * (size_t)option.depth);
    connect_to(&c->wire, option.port, option.timeout);
    expect(c);
    shake_hands(c);
    watch(&c->wire);
}

/* A close frame to each, then the servers' side of it, for a moment: after the result, so nothing fails. */
static void close_all(void)
{
    static const unsigned char goodbye[] = {FIN | OP_CLOSE, MASKED | 2, 0, 0, 0, 0, 1000 >> 8, 1000 & 255};
    static unsigned char rest[READ_SIZE];
    struct epoll_event events[MAX_EVENTS];
    int left = 0;
    for (int i = 0; i < option.connections; i++)
        left += write(connections[i].wire.fd, goodbye, sizeof goodbye) == sizeof goodbye;
    for (int64_t give_up = now_ns() + CLOSE_GRACE_MS * 1000000LL; left > 0 && now_ns() < give_up;) {
        int ready = epoll_wait(epoll_fd, events, MAX_EVENTS, CLOSE_GRACE_MS / 10);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (read(c->wire.fd, rest, sizeof rest) <= 0) {
                close(c->wire.fd);
                left--;
            }
        }
    }
}

/* Starts anew: nothing is counted, nothing is in flight. */
static void begin_phase(uint64_t messages, double seconds, int64_t start)
{
    histogram_clear(&latencies);
    echoes = 0;
    stopping = 0;
    to_send = messages > 0 ? messages : UINT64_MAX;
    stop_ns = messages > 0 ? INT64_MAX : start + (int64_t)(seconds * 1e9);
}

/* Keeps the loop going for the time or the count, then waits for what is in flight. Returns its length. */
static int64_t run_phase(uint64_t messages, double seconds)
{
    struct epoll_event events[MAX_EVENTS];
    int64_t limit = (int64_t)(option.timeout * 1e9), start = now_ns();
    begin_phase(messages, seconds, start);
    for (int i = 0; i < option.connections; i++)
        send_more(&connections[i], (uint64_t)option.depth, now_ns());
    int64_t last = now_ns(), end = start;
    while (in_flight > 0) {
        uint64_t before = echoes;
        int ready = epoll_wait(epoll_fd, events, MAX_EVENTS, 100);
        if (ready < 0 && errno != EINTR)
            fail(NULL, "epoll_wait: %s", strerror(errno));
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                flush(c);
            if (events[i].events & ~(uint32_t)EPOLLOUT)
                read_some(c);
        }
        end = now_ns();
        if (echoes > before)
            last = end;
        if (end - last > limit || (end > stop_ns && end - stop_ns > limit))
            fail(NULL, "%llu messages without an echo for %g s", (unsigned long long)in_flight, option.timeout);
    }
    return end - start;
}

__attribute__((noreturn)) static void usage(void)
{
    fputs("usage: ws_load [options] PORT     (of 127.0.0.1)\n"
          "  --connections N  64     --size BYTES  64, at least 8     --depth N  1: messages in flight on each\n"
          "  --seconds S      1      --messages N  in all, instead    --warmup S  0: before, not counted\n"
          "  --timeout S      5      --text        not binary\n"
          "  --hold           print 'ready' when open and warm, begin at a byte of standard input, print\n"
          "                   the result, close when standard input ends\n",
          stderr);
    exit(2);
}

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"connections", 1, NULL, 'c'}, {"size", 1, NULL, 's'},   {"depth", 1, NULL, 'd'},
        {"seconds", 1, NULL, 't'},     {"warmup", 1, NULL, 'w'}, {"messages", 1, NULL, 'm'},
        {"timeout", 1, NULL, 'o'},     {"text", 0, NULL, 'x'},   {"hold", 0, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    for (int flag; (flag = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (flag) {
        case 'c': option.connections = (int)number(optarg, "connections", 1, MAX_CONNECTIONS); break;
        case 's': option.size = (int)number(optarg, "size", SERIAL_SIZE, MAX_SIZE); break;
        case 'd': option.depth = (int)number(optarg, "depth", 1, MAX_DEPTH); break;
        case 't': option.seconds = number(optarg, "seconds", 0.001, 86400); break;
        case 'w': option.warmup = number(optarg, "warmup", 0, 86400); break;
        case 'm': option.messages = (uint64_t)number(optarg, "messages", 1, 1e15); break;
        case 'o': option.timeout = number(optarg, "timeout", 0.001, 3600); break;
        case 'x': option.opcode = OP_TEXT; break;
        case 'h': option.hold = 1; break;
        default: usage();
        }
    }
    if (optind != argc - 1)
        usage();
    option.port = (int)number(argv[optind], "PORT", 1, 65535);
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    prepare_frames();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = allocate(sizeof *connections * (size_t)option.connections);
    for (int i = 0; i < option.connections; i++) {
        connections[i].wire.number = i;
        open_one(&connections[i]);
    }
    if (option.warmup > 0)
        run_phase(0, option.warmup);
    if (option.hold)
        wait_for_start();
    int64_t length = run_phase(option.messages, option.seconds);
    printf("PERF-RESULT {\"messages\":%llu,\"duration_us\":%lld,\"bytes\":%llu,", (unsigned long long)echoes,
           (long long)(length / 1000), (unsigned long long)(echoes * echo_size));
    histogram_print(&latencies);
    puts("}");
    fflush(stdout);
    if (option.hold)
        wait_for_end();
    close_all();
    return 0;
}
