/* A load generator for one core: HTTP/1.1 or gRPC over keep-alive connections, each with one request on the way.
 *
 *   load PORT CONNECTIONS SECONDS WARMUP RATE h1|h2 FILE [PID…]
 *
 * RATE 0 is a closed loop: a connection sends its next request when it has its answer. Any other RATE is an open
 * loop: requests fall due at even distances, whatever the server does, and their latency counts from the moment
 * they were due, so a server that stalls is charged for everybody who would have waited (no coordinated omission).
 * What was due and had no answer at the end counts with the time it has waited so far.
 *
 * FILE: u32 count, then that many (u32 length, bytes); u32 count, then that many u32: the order in which they are
 * sent, over and over. HTTP/1.1: a request is all its bytes. h2: a request is its path, the name and value of one more header (or nothing), each ended by a zero byte, and the message.
 * PIDs: processes whose CPU time between the end of the warm-up and the end of the run is reported.
 *
 * Prints one JSON object. Exit code 2: wrong use or no connection.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------- histogram */
#define SUB 128 /* steps per power of two: under 1 % of error */
static uint64_t histogram[64 * SUB];
static uint64_t slowest, recorded;
static double total_ns;

static int slot(uint64_t ns) {
    if (ns < SUB) return (int)ns;
    int shift = 63 - __builtin_clzll(ns) - 7;
    return (shift + 1) * SUB + (int)((ns >> shift) - SUB);
}

static uint64_t floor_of(int index) {
    if (index < SUB) return (uint64_t)index;
    return (uint64_t)(index % SUB + SUB) << (index / SUB - 1);
}

static void record(uint64_t ns) {
    histogram[slot(ns)]++;
    recorded++;
    total_ns += (double)ns;
    if (ns > slowest) slowest = ns;
}

static double quantile(double share) {
    uint64_t wanted = (uint64_t)(share * (double)recorded), seen = 0;
    for (int i = 0; i < 64 * SUB; i++) {
        seen += histogram[i];
        if (seen > wanted) return (double)floor_of(i) / 1e6;
    }
    return (double)slowest / 1e6;
}

/* -------------------------------------------------------------------------------------------------- requests */
typedef struct { char *bytes; uint32_t length; } Text;
static Text *texts;
static uint32_t *order, text_count, order_count, cursor;

static char *slurp(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) { perror(path); exit(2); }
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*size + 1);
    if (fread(data, 1, *size, file) != *size) { perror(path); exit(2); }
    fclose(file);
    return data;
}

static void read_requests(const char *path) {
    size_t size, at = 4;
    char *data = slurp(path, &size);
    memcpy(&text_count, data, 4);
    texts = calloc(text_count, sizeof *texts);
    for (uint32_t i = 0; i < text_count; i++) {
        memcpy(&texts[i].length, data + at, 4);
        texts[i].bytes = data + at + 4;
        at += 4 + texts[i].length;
    }
    memcpy(&order_count, data + at, 4);
    order = (uint32_t *)malloc(4 * (size_t)order_count);
    memcpy(order, data + at + 4, 4 * (size_t)order_count);
}

/* ----------------------------------------------------------------------------------------------- connections */
typedef struct {
    int fd, busy, want_out, answered;
    uint64_t due;
    const char *out;
    size_t out_left;
    char *own; /* a frame of ours while it is being written */
    size_t own_size;
    char *in;
    size_t in_have, in_size;
    uint32_t stream;
    char *control; /* control frames that wait until the request is out */
    size_t control_have;
} Connection;

static Connection *all;
static int *idle, idle_count, poller, connections, http2;
static struct sockaddr_in address;
static uint64_t answered, failed, reconnects, measured_from;
static int statuses[1000];
static char first_bad[600];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void watch(Connection *c, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (c->want_out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, operation, c->fd, &event);
}

static void push_out(Connection *c) {
    while (c->out_left) {
        ssize_t sent = send(c->fd, c->out, c->out_left, MSG_NOSIGNAL);
        if (sent <= 0) break;
        c->out += sent;
        c->out_left -= (size_t)sent;
    }
    if (c->out_left == 0 && c->control_have) {
        if (send(c->fd, c->control, c->control_have, MSG_NOSIGNAL) == (ssize_t)c->control_have) c->control_have = 0;
    }
    int want = c->out_left > 0;
    if (want != c->want_out) {
        c->want_out = want;
        watch(c, EPOLL_CTL_MOD);
    }
}

/* What an HTTP/2 client says first: SETTINGS with no header table and wide windows, a wide window of the connection. */
static const char PREFACE[] =
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    "\0\0\14\4\0\0\0\0\0" "\0\1\0\0\0\0" "\0\4\x7f\xff\xff\xff"
    "\0\0\4\10\0\0\0\0\0" "\x7f\xff\0\0";

static void dial(Connection *c) {
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1;
    for (int try = 0; connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0; try++) {
        if (try == 50) { perror("connect"); exit(2); }
        usleep(20000);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->in_have = c->out_left = c->control_have = 0;
    c->want_out = c->answered = 0;
    c->stream = 1;
    if (http2 && send(c->fd, PREFACE, sizeof PREFACE - 1, MSG_NOSIGNAL) < 0) { perror("send"); exit(2); }
    watch(c, EPOLL_CTL_ADD);
}

static void finish(Connection *c, int status, uint64_t now) {
    if (!c->busy) return;
    c->busy = 0;
    idle[idle_count++] = (int)(c - all);
    if (!measured_from || now < measured_from) return;
    statuses[status < 1000 ? status : 999]++;
    if (status == 200) {
        answered++;
        record(now > c->due ? now - c->due : 0);
    } else {
        failed++;
        if (!first_bad[0]) snprintf(first_bad, sizeof first_bad, "%d: %.*s", status, (int)(c->in_have < 500 ? c->in_have : 500), c->in);
    }
}

static void redial(Connection *c, uint64_t now, int clean) {
    epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    if (!clean) finish(c, 0, now);
    reconnects++;
    dial(c);
}

/* ----------------------------------------------------------------------------------------------------- HTTP/1 */
/* Bytes of the whole answer at the beginning of the buffer, 0 while it is not whole; -1 when it ends at close. */
static ssize_t whole(Connection *c, int *status, int *close_after) {
    char *end = memmem(c->in, c->in_have, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = (size_t)(end - c->in) + 4;
    *status = atoi(c->in + 9);
    long length = -1;
    int chunked = 0;
    for (char *line = memchr(c->in, '\n', head); line && ++line < end; line = memchr(line, '\n', (size_t)(end - line) + 2)) {
        if ((*line | 32) == 'c' && !strncasecmp(line, "content-length:", 15)) length = atol(line + 15);
        else if ((*line | 32) == 't' && !strncasecmp(line, "transfer-encoding:", 18)) chunked = 1;
        else if ((*line | 32) == 'c' && !strncasecmp(line, "connection: close", 17)) *close_after = 1;
    }
    if (length >= 0) return c->in_have >= head + (size_t)length ? (ssize_t)(head + (size_t)length) : 0;
    if (!chunked) return *close_after ? -1 : (ssize_t)head;
    for (size_t at = head; at < c->in_have;) {
        char *stop = memmem(c->in + at, c->in_have - at, "\r\n", 2);
        if (!stop) return 0;
        size_t size = strtoul(c->in + at, NULL, 16);
        at = (size_t)(stop - c->in) + 2 + size + 2;
        if (at > c->in_have) return 0;
        if (size == 0) return (ssize_t)at;
    }
    return 0;
}

static void take_h1(Connection *c, uint64_t now) {
    int status = 0, close_after = 0;
    ssize_t size = whole(c, &status, &close_after);
    if (size <= 0) return;
    finish(c, status, now);
    c->in_have = 0; /* one request on the way: nothing follows it */
    if (close_after) redial(c, now, 1);
}

/* ------------------------------------------------------------------------------------------------ gRPC (HTTP/2) */
static char *frame(char *at, size_t length, int type, int flags, uint32_t stream) {
    at[0] = (char)(length >> 16); at[1] = (char)(length >> 8); at[2] = (char)length;
    at[3] = (char)type; at[4] = (char)flags;
    at[5] = (char)(stream >> 24); at[6] = (char)(stream >> 16); at[7] = (char)(stream >> 8); at[8] = (char)stream;
    return at + 9;
}

static char *put(char *at, const char *bytes, size_t length) {
    memcpy(at, bytes, length);
    return at + length;
}

/* A header field as a literal that enters no table; names and values are under 127 bytes. */
static char *literal(char *at, const char *name, const char *value) {
    *at++ = 0;
    *at++ = (char)strlen(name);
    at = put(at, name, strlen(name));
    *at++ = (char)strlen(value);
    return put(at, value, strlen(value));
}

static void send_h2(Connection *c, Text *text) {
    const char *name = text->bytes + strlen(text->bytes) + 1, *value = name + strlen(name) + 1;
    const char *message = value + strlen(value) + 1;
    size_t size = text->length - (size_t)(message - text->bytes);
    if (c->own_size < size + 1024) {
        c->own_size = size + 1024 + size / 16384 * 9 + 64;
        c->own = realloc(c->own, c->own_size);
    }
    char *at = c->own;
    char *head = at, *fields = at + 9;
    char *end = fields;
    *end++ = (char)0x83; /* :method POST */
    *end++ = (char)0x86; /* :scheme http */
    end = literal(end, ":path", text->bytes);
    end = literal(end, ":authority", "bench");
    end = literal(end, "te", "trailers");
    end = literal(end, "content-type", "application/grpc");
    if (*name) end = literal(end, name, value);
    frame(head, (size_t)(end - fields), 1, 4, c->stream);
    at = end;
    char prefix[5] = {0, (char)(size >> 24), (char)(size >> 16), (char)(size >> 8), (char)size};
    size_t left = size, first = 1;
    while (left || first) { /* frames of at most 16,384 bytes */
        size_t room = first ? 16384 - 5 : 16384, part = left < room ? left : room;
        at = frame(at, part + (first ? 5 : 0), 0, left == part, c->stream);
        if (first) at = put(at, prefix, 5);
        at = put(at, message, part);
        message += part;
        left -= part;
        first = 0;
    }
    c->answered = 0;
    c->out = c->own;
    c->out_left = (size_t)(at - c->own);
    push_out(c);
}

static void control(Connection *c, int type, const char *payload, size_t length) {
    c->control = realloc(c->control, c->control_have + length + 9);
    char *at = frame(c->control + c->control_have, length, type, 1, 0);
    if (length) put(at, payload, length);
    c->control_have += length + 9;
}

static void take_h2(Connection *c, uint64_t now) {
    size_t at = 0;
    int ended = 0, lost = 0;
    while (c->in_have - at >= 9) {
        unsigned char *f = (unsigned char *)c->in + at;
        size_t length = (size_t)f[0] << 16 | (size_t)f[1] << 8 | f[2];
        if (c->in_have - at < 9 + length) break;
        int type = f[3], flags = f[4];
        uint32_t stream = ((uint32_t)f[5] << 24 | (uint32_t)f[6] << 16 | (uint32_t)f[7] << 8 | f[8]) & 0x7fffffff;
        if (type == 0 && length > 0) c->answered = 1; /* an error has trailers and no message */
        if (type <= 1 && (flags & 1) && stream == c->stream) ended = 1;
        if (type == 3 && stream == c->stream) ended = 1;
        if (type == 4 && !(flags & 1)) control(c, 4, NULL, 0);
        if (type == 6 && !(flags & 1)) control(c, 6, (char *)f + 9, 8);
        if (type == 7) lost = 1;
        at += 9 + length;
    }
    memmove(c->in, c->in + at, c->in_have - at);
    c->in_have -= at;
    if (c->control_have) push_out(c);
    if (ended) {
        c->stream += 2;
        finish(c, c->answered ? 200 : 500, now);
    }
    if (lost) redial(c, now, ended);
}

/* ---------------------------------------------------------------------------------------------------- the loop */
static void start(Connection *c, uint64_t due) {
    Text *text = &texts[order[cursor]];
    if (++cursor == order_count) cursor = 0;
    c->busy = 1;
    c->due = due;
    if (http2) { send_h2(c, text); return; }
    c->out = text->bytes;
    c->out_left = text->length;
    push_out(c);
}

static void readable(Connection *c) {
    for (;;) {
        if (c->in_size - c->in_have < 16384) c->in = realloc(c->in, c->in_size = c->in_size * 2 + 65536);
        size_t room = c->in_size - c->in_have;
        ssize_t got = recv(c->fd, c->in + c->in_have, room, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (got <= 0) { redial(c, now_ns(), !c->busy); return; }
        c->in_have += (size_t)got;
        if (http2) take_h2(c, now_ns()); else take_h1(c, now_ns());
        if ((size_t)got < room) return;
    }
}

static double cpu_of(int count, char **pids) {
    double sum = 0;
    for (int i = 0; i < count; i++) {
        clockid_t clock;
        struct timespec t;
        if (clock_getcpuclockid(atoi(pids[i]), &clock) == 0 && clock_gettime(clock, &t) == 0)
            sum += (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    }
    return sum;
}

static void escaped(const char *text) {
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text >= 32 && (unsigned char)*text < 127) putchar(*text); else putchar(' ');
    }
}

int main(int argc, char **argv) {
    if (argc < 8) { fprintf(stderr, "load PORT CONNECTIONS SECONDS WARMUP RATE h1|h2 FILE [PID...]\n"); return 2; }
    connections = atoi(argv[2]);
    double seconds = atof(argv[3]), warmup = atof(argv[4]), rate = atof(argv[5]);
    http2 = !strcmp(argv[6], "h2");
    read_requests(argv[7]);
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    poller = epoll_create1(0);
    all = calloc((size_t)connections, sizeof *all);
    idle = calloc((size_t)connections + 1, sizeof *idle);
    for (int i = 0; i < connections; i++) { dial(&all[i]); idle[idle_count++] = i; }

    uint64_t began = now_ns(), from = began + (uint64_t)(warmup * 1e9), ends = from + (uint64_t)(seconds * 1e9);
    double step = rate > 0 ? 1e9 / rate : 0, next = (double)began;
    double cpu_before = 0, own_before = 0;
    struct epoll_event events[256];
    uint64_t now = began;
    while (now < ends) {
        if (!measured_from && now >= from) {
            measured_from = from = now;
            ends = from + (uint64_t)(seconds * 1e9);
            cpu_before = cpu_of(argc - 8, argv + 8);
            own_before = (double)clock() / CLOCKS_PER_SEC;
        }
        int wait = 1;
        if (rate > 0) {
            while (idle_count && next <= (double)now) { start(&all[idle[--idle_count]], (uint64_t)next); next += step; }
            wait = next - (double)now > 1.5e6 ? 1 : 0;
        } else {
            while (idle_count) start(&all[idle[--idle_count]], now_ns());
        }
        int count = epoll_wait(poller, events, 256, wait);
        for (int i = 0; i < count; i++) {
            Connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) push_out(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
            if (rate <= 0 && idle_count) start(&all[idle[--idle_count]], now_ns());
        }
        now = now_ns();
    }
    double took = (double)(now - from) / 1e9, cpu = cpu_of(argc - 8, argv + 8) - cpu_before;
    double own = (double)clock() / CLOCKS_PER_SEC - own_before;
    uint64_t late = 0;
    if (rate > 0) { /* who still waits has waited at least so long */
        for (int i = 0; i < connections; i++)
            if (all[i].busy) { record(now > all[i].due ? now - all[i].due : 0); late++; }
        for (; next < (double)now; next += step, late++) record(now - (uint64_t)next);
    }
    printf("{\"answered\": %llu, \"failed\": %llu, \"late\": %llu, \"reconnects\": %llu, \"seconds\": %.6f, \"rate\": %.1f, ",
           (unsigned long long)answered, (unsigned long long)failed, (unsigned long long)late, (unsigned long long)reconnects,
           took, (double)answered / took);
    printf("\"cpu\": %.6f, \"load_cpu\": %.6f, \"mean\": %.6f, \"p50\": %.6f, \"p90\": %.6f, \"p99\": %.6f, \"p999\": %.6f, \"max\": %.6f, ",
           cpu, own, recorded ? total_ns / (double)recorded / 1e6 : 0.0, quantile(.5), quantile(.9), quantile(.99),
           quantile(.999), (double)slowest / 1e6);
    printf("\"bad\": \"");
    escaped(first_bad);
    printf("\"}\n");
    return 0;
}
