/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which stretches of guests' memory are worth merging: those in which enough is like something
 * elsewhere. What differs everywhere costs the kernel most: it goes through the checksum, and then
 * into a tree that it is looked for in each time. Pure functions of sketches. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "store/base/guest.h"
#include "store/base/own.h"

struct cs_alike;

/* (key): random, since guests choose what is in their pages: with a key that is known they could
 * make all of it fall into one place of the table, and comparing them take hours. -ENOMEM. */
int cs_alike_create(uint64_t key, struct cs_alike **ret);

/* One guest's (n) pages, ascending, which are copied. Guests count from 0. -ENOMEM; -EBADMSG: they
 * are not ascending. Not behind cs_alike_compare(). */
int cs_alike_add(struct cs_alike *alike, const struct cs_sketch_page *page, size_t n);

/* Hold all against all, once. -ENOMEM. */
int cs_alike_compare(struct cs_alike *alike);

/* Pages of (guest) that are like another and not merged yet. */
uint64_t cs_alike_unmerged(const struct cs_alike *alike, size_t guest);

/* The ranges of (guest) that hold its pages that are like another, merged or not, ascending, at
 * most (room) of them, one at least. A few pages that are like none do not part them, since a range
 * costs about as much as some pages that are looked at in vain; nor do more when there is no room
 * otherwise. What the guest has not written parts them when it is long. *ret_n: how many,
 * *ret_pages: pages of its own in them. */
void cs_alike_ranges(const struct cs_alike *alike, size_t guest, struct cs_page_range *ret,
		     size_t room, size_t *ret_n, uint64_t *ret_pages);

struct cs_alike *cs_alike_free(struct cs_alike *alike);
CS_DEFINE_AUTO(cs_alike);
