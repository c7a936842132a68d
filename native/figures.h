/* Figures: what a worker counts of its requests and connections, in memory that the master reads.
 *
 * shardserve/stats.py declares the layout: first the figures named here, then one for each method and class of status,
 * then the histograms, each a sum and its buckets. Every figure is one aligned 64-bit store. Without shared memory the same
 * figures are kept in memory of our own, so that nobody asks whether they are. Counting runs no Python and cannot fail.
 */
#ifndef SHARDSERVE_FIGURES_H
#define SHARDSERVE_FIGURES_H

#include "native.h"

/* In the order of stats.NATIVE. */
#define FIGURE_NAMES(X)                                                                            \
    X(accepted)                                                                                    \
    X(reused)                                                                                      \
    X(abandoned)                                                                                   \
    X(app_errors)                                                                                  \
    X(websockets_accepted)                                                                         \
    X(ws_messages_received)                                                                        \
    X(ws_messages_sent)                                                                            \
    X(connections_idle)                                                                            \
    X(connections_reading)                                                                         \
    X(connections_active)                                                                          \
    X(connections_websocket)                                                                       \
    X(connections_closing)

typedef enum {
#define X(name) FIGURE_##name,
    FIGURE_NAMES(X)
#undef X
    FIGURE_COUNT
} Figure;

#define FIGURE_METHODS (LINE_OTHER + 1)
#define FIGURE_CLASSES 5 /* 1xx to 5xx */
#define FIGURE_MOST_BOUNDS 64

/* How many values were at most each bound, and their sum. */
typedef struct {
    uint64_t *sum; /* the buckets stand behind it */
    uint64_t bounds[FIGURE_MOST_BOUNDS]; /* ascending */
    uint8_t first[65]; /* by a value's number of binary digits: the first bucket that it can be in */
    int count;         /* of bounds */
} Histogram;

typedef struct {
    uint64_t *figures;
    Histogram duration_us;
    Histogram first_byte_us;
    Histogram request_body_bytes;
    Histogram response_body_bytes;
    Py_buffer view;    /* view.obj is NULL: `own` holds them */
    uint64_t *own;
} Figures;

/* From the factory's arguments: `view` a writable buffer of format "Q", of exactly as many as there are, or None; the bounds
 * tuples of ints, ascending (NULL: none). 0, or -1 with TypeError or ValueError. Zero-initialised before. */
int figures_take(Figures *figures, PyObject *view, PyObject *duration_bounds, PyObject *size_bounds);

/* Lets the buffer go. Nothing may be counted after it. */
void figures_release(Figures *figures);

/* module attributes figure_names and methods. 0, or -1. */
int figures_init_module(PyObject *module);

/* Another process reads it: one store, no half of one. */
static inline void
figure_store(uint64_t *figure, uint64_t value)
{
    __atomic_store_n(figure, value, __ATOMIC_RELAXED);
}

static inline void
figures_add(Figures *figures, Figure figure)
{
    figure_store(&figures->figures[figure], figures->figures[figure] + 1);
}

/* One value into its bucket and onto the sum. */
void histogram_add(Histogram *histogram, uint64_t value);

/* One response: `method` a LineMethod. */
void figures_response(Figures *figures, int method, int status);

#endif
