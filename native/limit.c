/* The limits, from keyword arguments. See limit.h. */
#include "limit.h"

/* 24 days: a time multiplied by a rate, and one added to a clock, cannot overflow. */
#define LONGEST_MS INT32_MAX

typedef enum { AT_MOST, MILLISECONDS, RATE, SETTING } Kind;

static const struct {
    const char *name;
    size_t offset;
    Kind kind;
    int64_t otherwise; /* when it is not given */
} LIMITS[] = {
    {"limit_request_line", offsetof(Limits, request_line), AT_MOST, 0},
    {"limit_request_head", offsetof(Limits, request_head), AT_MOST, 0},
    {"limit_request_field_size", offsetof(Limits, request_field_size), AT_MOST, 0},
    {"limit_request_fields", offsetof(Limits, request_fields), AT_MOST, 0},
    {"limit_request_body", offsetof(Limits, request_body), AT_MOST, 0},
    {"limit_pipelined", offsetof(Limits, pipelined), AT_MOST, 0},
    {"limit_keep_alive_requests", offsetof(Limits, keep_alive_requests), AT_MOST, 0},
    {"limit_connections", offsetof(Limits, connections), AT_MOST, 0},
    {"limit_concurrency", offsetof(Limits, concurrency), AT_MOST, 0},
    {"first_byte_ms", offsetof(Limits, first_byte_ms), MILLISECONDS, 0},
    {"head_ms", offsetof(Limits, head_ms), MILLISECONDS, 0},
    {"body_window_ms", offsetof(Limits, body_window_ms), MILLISECONDS, 0},
    {"body_min_rate", offsetof(Limits, body_min_rate), RATE, 0},
    {"write_stall_ms", offsetof(Limits, write_stall_ms), MILLISECONDS, 0},
    {"keep_alive_ms", offsetof(Limits, keep_alive_ms), MILLISECONDS, 75000},
    {"ws_max_size", offsetof(Limits, ws_max_size), AT_MOST, 0},
    {"ws_max_queue", offsetof(Limits, ws_max_queue), AT_MOST, 0},
    {"ws_compress_min", offsetof(Limits, ws_compress_min), AT_MOST, 0},
    {"ws_ping_interval_ms", offsetof(Limits, ws_ping_interval_ms), MILLISECONDS, 0},
    {"ws_ping_timeout_ms", offsetof(Limits, ws_ping_timeout_ms), MILLISECONDS, 0},
    {"ws_idle_ms", offsetof(Limits, ws_idle_ms), MILLISECONDS, 0},
    {"ws_close_ms", offsetof(Limits, ws_close_ms), MILLISECONDS, 0},
    {"http2_max_concurrent_streams", offsetof(Limits, http2_max_concurrent_streams), SETTING, 128},
    {"http2_initial_stream_window_size", offsetof(Limits, http2_initial_stream_window_size), SETTING, 262144},
    {"http2_initial_connection_window_size", offsetof(Limits, http2_initial_connection_window_size), SETTING, 1048576},
    {"http2_max_frame_size", offsetof(Limits, http2_max_frame_size), SETTING, 16384},
    {"http2_max_header_list_size", offsetof(Limits, http2_max_header_list_size), SETTING, 65536},
    {"http2_header_table_size", offsetof(Limits, http2_header_table_size), SETTING, 4096},
    {"http2_ping_interval_ms", offsetof(Limits, http2_ping_interval_ms), MILLISECONDS, 0},
    {"http2_ping_timeout_ms", offsetof(Limits, http2_ping_timeout_ms), MILLISECONDS, 0},
};

static int64_t
normalised(Kind kind, long long value, int64_t otherwise)
{
    if (kind == SETTING) /* an unsigned number of 31 bits on the wire */
        return value <= 0 ? otherwise : value > INT32_MAX ? INT32_MAX : value;
    if (kind == AT_MOST)
        return value > 0 ? value : INT64_MAX;
    if (value < 0)
        return 0;
    int64_t most = kind == RATE ? INT32_MAX : LONGEST_MS;
    return value > most ? most : value;
}

int
limits_take(Limits *limits, PyObject *kwargs)
{
    for (size_t i = 0; i < sizeof(LIMITS) / sizeof(LIMITS[0]); i++) {
        long long value = LIMITS[i].otherwise;
        PyObject *name = PyUnicode_FromString(LIMITS[i].name);
        PyObject *given = name == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(kwargs, name));
        if (given != NULL) {
            value = PyLong_AsLongLong(given);
            if (!PyErr_Occurred())
                (void)PyDict_DelItem(kwargs, name);
        }
        Py_XDECREF(given);
        Py_XDECREF(name);
        if (PyErr_Occurred())
            return -1;
        *(int64_t *)((char *)limits + LIMITS[i].offset) = normalised(LIMITS[i].kind, value, LIMITS[i].otherwise);
    }
    return 0;
}
