/* The operations of which a line of the access log is made: each appends one fact of a request. */
#ifndef SHARDSERVE_ACCESS_OPS_H
#define SHARDSERVE_ACCESS_OPS_H

#include "accesslog.h"

typedef enum { ACCESS_NONE, ACCESS_OPTIONAL, ACCESS_NEEDED } AccessArgument;

typedef struct {
    AccessArgument argument;
    bool tls;            /* it needs AccessEntry.tls_version */
    bool response_field; /* it needs a field of the response, which is its argument */
} AccessOpFacts;

/* The operation of this name, or -1. */
int access_op_named(const char *name);

/* What is to be known of it beforehand. */
AccessOpFacts access_op_facts(int op);

/* Appends what one step says. False: there is no memory. Runs no Python. */
bool access_op_run(AccessLog *log, const AccessEntry *entry, const Step *step);

/* The value of a response's field by its lower-case name (bytes), NULL if it is not there. Borrowed. */
PyObject *access_find_response_field(PyObject *fields, PyObject *name);

#endif
