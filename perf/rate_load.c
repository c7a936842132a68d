/* rate_load: an HTTP/1.1 client that sends requests at a fixed rate, whether the server keeps up or not.
 *
 * Rules of this file: the schedule is made before the server is asked anything and nothing that the server
 * does moves it. Request k is due at start + k / rate, on connection k mod connections; a connection has one
 * request in flight, so one that is due while the last is unanswered waits for its turn, and its latency runs
 * from the moment it was due, waiting included. That is what makes the figures free of coordinated omission:
 * a client that measures from the moment of sending leaves out exactly the requests that a stalled server
 * kept from being sent. What is never answered is counted too, as a timeout and in the latencies, with the
 * time it had waited when we gave up.
 *
 * Every status and every body's length is checked (RFC 9112 as far as that needs: lengths, chunks, the end of
 * the connection). A connection that the server ends is opened anew. The generator's own lateness, the time
 * from when a request could be sent until it was, is measured and printed: it is part of the latencies, so a
 * machine that is too busy makes them worse, never better.
 *
 * Usage: see usage() below. perf/rate_load.py runs it.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <sys/timerfd.h>

#include "client.h"
#include "histogram.h"

enum {
    MAX_HEAD = 16 * 1024,
    MAX_LINE = 256, /* of a chunk's size or a trailer */
    MAX_REQUEST = 64 * 1024 * 1024,
    /* A sleeping thread wakes tens of microseconds late: for the last of the way to the next due moment the
     * loop polls instead. The core is the generator's own. */
    SPIN_NS = 100 * 1000,
};

/* Where in a response a connection is. */
enum state { HEAD, LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS, UNTIL_CLOSE };

static struct {
    int port, connections, hold;
    double rate, seconds, warmup, timeout;
    long long body_bytes; /* what a right answer has */
    const char *request;
} option = {.connections = 64, .rate = 1000, .seconds = 1, .timeout = 5, .body_bytes = -1};

struct connection {
    struct wire wire;
    int busy;          /* a request of ours is unanswered */
    int64_t due_ns;    /* when it was due */
    int64_t free_ns;   /* when the one before it was answered */
    uint64_t begun;    /* requests of this connection that were sent, this phase */
    uint64_t owed;     /* that are due and not sent */
    size_t sent;       /* bytes of the request in flight */
    enum state state;
    int status, closing;
    long long left;    /* bytes of the body or chunk still to come */
    long long body;    /* bytes of the body that came */
    size_t head_size, line_size;
    char head[MAX_HEAD + 1];
    char line[MAX_LINE + 1];
};

static struct connection *connections;
static int timer_fd;
static char *request;
static size_t request_size;

/* Of the current phase. */
static int64_t start_ns;
static uint64_t total, next_due; /* requests in all, the first that is not due yet */
static uint64_t settled;         /* answered, or lost with a connection */
static struct {
    uint64_t answered, bytes, read, status, body, timeout;
} seen;
static struct histogram latencies, lateness;

static int64_t due_at(uint64_t k)
{
    return start_ns + (int64_t)((double)k * 1e9 / option.rate);
}

static void open_one(struct connection *c)
{
    connect_to(&c->wire, option.port, option.timeout);
    watch(&c->wire);
    c->closing = 0;
    c->state = HEAD;
    c->head_size = c->line_size = 0;
}

static void reopen(struct connection *c)
{
    close(c->wire.fd);
    open_one(c);
}

/* Writes what is left of the request in flight. A broken connection shows when it is read. */
static void flush(struct connection *c)
{
    while (c->sent < request_size) {
        ssize_t size = send(c->wire.fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0) {
            want_write(&c->wire, errno == EAGAIN);
            return;
        }
        c->sent += (size_t)size;
    }
    want_write(&c->wire, 0);
}

static void send_next(struct connection *c)
{
    uint64_t k = (uint64_t)c->wire.number + c->begun * (uint64_t)option.connections;
    int64_t now = now_ns();
    c->due_ns = due_at(k);
    histogram_record(&lateness, now - (c->due_ns > c->free_ns ? c->due_ns : c->free_ns));
    c->begun++;
    c->owed--;
    c->busy = 1;
    c->sent = 0;
    flush(c);
}

/* The request in flight has its end, good or bad. */
static void settle(struct connection *c, int64_t now)
{
    histogram_record(&latencies, now - c->due_ns);
    settled++;
    c->busy = 0;
    c->free_ns = now;
}

static void answered(struct connection *c, int64_t now)
{
    seen.answered++;
    seen.status += c->status != 200;
    seen.body += c->status == 200 && option.body_bytes >= 0 && c->body != option.body_bytes;
    settle(c, now);
    c->state = HEAD;
    c->head_size = 0;
    if (c->closing)
        reopen(c);
    if (c->owed > 0)
        send_next(c);
}

/* The head is whole: what comes next, by RFC 9112 section 6.3. */
static void read_head(struct connection *c, int64_t now)
{
    const char *length = field(c->head, "content-length"), *coding = field(c->head, "transfer-encoding");
    const char *connection = field(c->head, "connection");
    if (strncmp(c->head, "HTTP/1.", 7) != 0)
        fail(&c->wire, "not HTTP: %.40s", c->head);
    c->status = atoi(c->head + 9);
    c->body = 0;
    c->closing = connection != NULL && strncasecmp(connection, "close", 5) == 0;
    c->line_size = 0;
    if (c->status >= 100 && c->status < 200) {
        c->state = HEAD;
        c->head_size = 0;
    } else if (coding != NULL && strncasecmp(coding, "chunked", 7) == 0) {
        c->state = CHUNK_SIZE;
    } else if (length != NULL) {
        c->state = LENGTH;
        c->left = atoll(length);
        if (c->left == 0)
            answered(c, now);
    } else {
        c->state = UNTIL_CLOSE;
    }
}

/* Takes bytes of a head, up to its end. Returns how many. */
static size_t take_head(struct connection *c, const char *data, size_t size, int64_t now)
{
    for (size_t i = 0; i < size; i++) {
        if (c->head_size == MAX_HEAD)
            fail(&c->wire, "a response head of more than %d bytes", MAX_HEAD);
        c->head[c->head_size++] = data[i];
        if (data[i] == '\n' && c->head_size >= 4 && memcmp(c->head + c->head_size - 4, "\r\n\r\n", 4) == 0) {
            c->head[c->head_size - 2] = '\0';
            read_head(c, now);
            return i + 1;
        }
    }
    return size;
}

/* Takes bytes of a line of the chunked coding, up to its end. Returns how many. */
static size_t take_line(struct connection *c, const char *data, size_t size, int64_t now)
{
    for (size_t i = 0; i < size; i++) {
        if (c->line_size == MAX_LINE)
            fail(&c->wire, "a chunk size or trailer of more than %d bytes", MAX_LINE);
        c->line[c->line_size++] = data[i];
        if (data[i] != '\n')
            continue;
        c->line[c->line_size] = '\0';
        int empty = c->line_size <= 2;
        c->line_size = 0;
        if (c->state == CHUNK_SIZE) {
            c->left = strtoll(c->line, NULL, 16);
            c->state = c->left > 0 ? CHUNK_DATA : TRAILERS;
        } else if (c->state == CHUNK_END) {
            c->state = CHUNK_SIZE;
        } else if (empty) {
            answered(c, now);
        }
        return i + 1;
    }
    return size;
}

/* Takes bytes of a body or chunk, up to its end. Returns how many. */
static size_t take_body(struct connection *c, size_t size, int64_t now)
{
    size_t used = c->state == UNTIL_CLOSE || (long long)size < c->left ? size : (size_t)c->left;
    c->body += (long long)used;
    if (c->state == UNTIL_CLOSE)
        return used;
    c->left -= (long long)used;
    if (c->left == 0 && c->state == CHUNK_DATA)
        c->state = CHUNK_END;
    else if (c->left == 0)
        answered(c, now);
    return used;
}

static void take(struct connection *c, const char *data, size_t size, int64_t now)
{
    seen.bytes += size;
    while (size > 0) {
        size_t used;
        if (!c->busy)
            fail(&c->wire, "bytes came that answer nothing");
        if (c->state == HEAD)
            used = take_head(c, data, size, now);
        else if (c->state == LENGTH || c->state == CHUNK_DATA || c->state == UNTIL_CLOSE)
            used = take_body(c, size, now);
        else
            used = take_line(c, data, size, now);
        data += used;
        size -= used;
    }
}

/* The server ended the connection. */
static void ended(struct connection *c, int64_t now)
{
    if (c->busy && c->state == UNTIL_CLOSE) {
        c->closing = 1;
        answered(c, now);
        return;
    }
    if (c->busy) {
        seen.read++;
        settle(c, now);
    }
    reopen(c);
    if (c->owed > 0)
        send_next(c);
}

static void read_some(struct connection *c)
{
    static char data[READ_SIZE];
    ssize_t size = read(c->wire.fd, data, sizeof data);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0)
        ended(c, now_ns());
    else
        take(c, data, (size_t)size, now_ns());
}

/* Makes due what is due by now. */
static void keep_schedule(void)
{
    while (next_due < total && due_at(next_due) <= now_ns()) {
        struct connection *c = &connections[next_due++ % (uint64_t)option.connections];
        c->owed++;
        if (!c->busy)
            send_next(c);
    }
}

/* Sleeps until something came or the next request is nearly due. Returns how many events. */
static int wait_for(struct epoll_event *events)
{
    int64_t left = next_due < total ? due_at(next_due) - now_ns() : 0;
    int timeout_ms = next_due < total ? 0 : 10;
    if (left > SPIN_NS) {
        int64_t at = due_at(next_due) - SPIN_NS;
        struct itimerspec when = {.it_value = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000}};
        timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
        timeout_ms = 100;
    }
    int ready = epoll_wait(epoll_fd, events, MAX_EVENTS, timeout_ms);
    if (ready < 0 && errno != EINTR)
        fail(NULL, "epoll_wait: %s", strerror(errno));
    return ready;
}

/* Those that have no answer have waited at least until now. */
static void give_up(int64_t now)
{
    for (int i = 0; i < option.connections; i++) {
        struct connection *c = &connections[i];
        for (uint64_t n = 0; n < c->owed; n++) {
            uint64_t k = (uint64_t)c->wire.number + (c->begun + n) * (uint64_t)option.connections;
            histogram_record(&latencies, now - due_at(k));
        }
        seen.timeout += c->owed + (uint64_t)c->busy;
        if (c->busy)
            settle(c, now);
        c->owed = 0;
    }
}

/* Sends at the rate for a while, then waits for what is unanswered. Returns how long it took. */
static int64_t run_phase(double seconds)
{
    struct epoll_event events[MAX_EVENTS];
    memset(&seen, 0, sizeof seen);
    histogram_clear(&latencies);
    histogram_clear(&lateness);
    next_due = settled = 0;
    total = (uint64_t)(option.rate * seconds);
    total = total > 0 ? total : 1;
    for (int i = 0; i < option.connections; i++)
        connections[i].begun = connections[i].owed = 0;
    start_ns = now_ns();
    int64_t limit = start_ns + (int64_t)((seconds + option.timeout) * 1e9);
    while (settled < total && now_ns() < limit) {
        keep_schedule();
        int ready = wait_for(events);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            uint64_t expired;
            if (c == NULL && read(timer_fd, &expired, sizeof expired) < 0 && errno != EAGAIN)
                fail(NULL, "timer: %s", strerror(errno));
            if (c == NULL)
                continue;
            if (events[i].events & EPOLLOUT)
                flush(c);
            if (events[i].events & ~(uint32_t)EPOLLOUT)
                read_some(c);
        }
    }
    int64_t now = now_ns();
    if (settled < total)
        give_up(now);
    return now - start_ns;
}

static void read_request(const char *path)
{
    FILE *file = fopen(path, "rb");
    request = malloc(MAX_REQUEST);
    if (file == NULL || request == NULL)
        fail(NULL, "%s: %s", path, strerror(errno));
    request_size = fread(request, 1, MAX_REQUEST, file);
    if (request_size == 0 || request_size == MAX_REQUEST)
        fail(NULL, "%s: not a request of 1 to %d bytes", path, MAX_REQUEST - 1);
    fclose(file);
}

__attribute__((noreturn)) static void usage(void)
{
    fputs("usage: rate_load [options] --request FILE PORT     (of 127.0.0.1)\n"
          "  --request FILE   the bytes of one request          --body-bytes N  length of a right answer's body\n"
          "  --rate R         1000: requests a second, in all   --connections N  64\n"
          "  --seconds S      1      --warmup S  0: before, not counted\n"
          "  --timeout S      5: how long after the last due moment answers may come\n"
          "  --hold           print 'ready' when open and warm, begin at a byte of standard input, print\n"
          "                   the result, close when standard input ends\n",
          stderr);
    exit(2);
}

static void parse_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"connections", 1, NULL, 'c'}, {"rate", 1, NULL, 'r'},       {"seconds", 1, NULL, 't'},
        {"warmup", 1, NULL, 'w'},      {"timeout", 1, NULL, 'o'},    {"request", 1, NULL, 'q'},
        {"body-bytes", 1, NULL, 'b'},  {"hold", 0, NULL, 'h'},       {NULL, 0, NULL, 0},
    };
    for (int flag; (flag = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (flag) {
        case 'c': option.connections = (int)number(optarg, "connections", 1, MAX_CONNECTIONS); break;
        case 'r': option.rate = number(optarg, "rate", 0.1, 1e7); break;
        case 't': option.seconds = number(optarg, "seconds", 0.001, 86400); break;
        case 'w': option.warmup = number(optarg, "warmup", 0, 86400); break;
        case 'o': option.timeout = number(optarg, "timeout", 0.001, 3600); break;
        case 'b': option.body_bytes = (long long)number(optarg, "body-bytes", 0, 1e12); break;
        case 'q': option.request = optarg; break;
        case 'h': option.hold = 1; break;
        default: usage();
        }
    }
    if (optind != argc - 1 || option.request == NULL)
        usage();
    option.port = (int)number(argv[optind], "PORT", 1, 65535);
}

static void open_all(void)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    connections = allocate(sizeof *connections * (size_t)option.connections);
    if (epoll_fd < 0 || timer_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event) < 0)
        fail(NULL, "%s", strerror(errno));
    for (int i = 0; i < option.connections; i++) {
        connections[i].wire.number = i;
        open_one(&connections[i]);
    }
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    read_request(option.request);
    open_all();
    if (option.warmup > 0 && (run_phase(option.warmup), seen.timeout > 0))
        fail(NULL, "%llu requests unanswered in the warm-up", (unsigned long long)seen.timeout);
    if (option.hold)
        wait_for_start();
    int64_t length = run_phase(option.seconds);
    printf("PERF-RESULT {\"requests\":%llu,\"due\":%llu,\"duration_us\":%lld,\"bytes\":%llu,"
           "\"read\":%llu,\"status\":%llu,\"body\":%llu,\"timeout\":%llu,\"late_us\":%.1f,",
           (unsigned long long)seen.answered, (unsigned long long)total, (long long)(length / 1000),
           (unsigned long long)seen.bytes, (unsigned long long)seen.read, (unsigned long long)seen.status,
           (unsigned long long)seen.body, (unsigned long long)seen.timeout, histogram_us(&lateness, 0.99));
    histogram_print(&latencies);
    puts("}");
    fflush(stdout);
    if (option.hold)
        wait_for_end();
    return 0;
}
