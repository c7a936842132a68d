/* Intrusive doubly linked lists: no allocation, O(1) removal without knowing the list.
 *
 * A Link that is in no list points at itself. A list is a Link that is never part of an object.
 */
#ifndef SHARDSERVE_LIST_H
#define SHARDSERVE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Link {
    struct Link *prev;
    struct Link *next;
} Link;

#define LIST_OWNER(link, Type, member) ((Type *)((char *)(link)-offsetof(Type, member)))

static inline void
list_init(Link *link)
{
    link->prev = link->next = link;
}

static inline bool
list_empty(const Link *list)
{
    return list->next == list;
}

static inline void
list_remove(Link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->prev = link->next = link;
}

/* Puts `link` at the end of `list`, leaving whatever list it was in. */
static inline void
list_append(Link *list, Link *link)
{
    list_remove(link);
    link->prev = list->prev;
    link->next = list;
    list->prev->next = link;
    list->prev = link;
}

#endif
