/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/alike.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define UNLIKE_RUN 4     /* pages like none, in a row: these part two ranges */
#define GAP_PAGES  256   /* for each of these, that the guest has not: they do, too */
#define TWICE      1U    /* in a slot: more than one page has it */
#define TAKEN      2U    /* in a slot: it is one */
#define MARKS      (~3U) /* what is left for the hash */
#define SLOTS_MIN  1024

struct cs_alike {
	struct cs_sketch_page *page; /* of all guests, one behind the other */
	size_t n, room;
	size_t *end; /* of each guest's in there */
	size_t guests, guest_room;
	uint32_t *slot; /* a hash table, open addressing: hash and marks; 0: none */
	size_t slots;   /* a power of two */
	uint64_t key;
};

int cs_alike_create(uint64_t key, struct cs_alike **ret)
{
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	(*ret)->key = key;
	return 0;
}

struct cs_alike *cs_alike_free(struct cs_alike *alike)
{
	if (!alike)
		return NULL;
	free(alike->page);
	free(alike->end);
	free(alike->slot);
	free(alike);
	return NULL;
}

/* Room for (n) more of (bytes) each. */
static int grow(void **array, size_t *room, size_t used, size_t n, size_t bytes)
{
	size_t more = *room ? *room : 64;
	void *larger;

	if (n <= *room - used)
		return 0;
	while (more - used < n) {
		if (more > SIZE_MAX / 2)
			return -ENOMEM;
		more *= 2;
	}
	larger = reallocarray(*array, more, bytes);
	if (!larger)
		return -ENOMEM;
	*array = larger;
	*room = more;
	return 0;
}

int cs_alike_add(struct cs_alike *alike, const struct cs_sketch_page *page, size_t n)
{
	void *pages = alike->page, *ends = alike->end;
	int r;

	for (size_t i = 1; i < n; i++) {
		if (page[i].page <= page[i - 1].page)
			return -EBADMSG;
	}
	r = grow(&pages, &alike->room, alike->n, n, sizeof(*page));
	alike->page = pages;
	if (r == 0)
		r = grow(&ends, &alike->guest_room, alike->guests, 1, sizeof(*alike->end));
	alike->end = ends;
	if (r < 0)
		return r;
	if (n)
		memcpy(&alike->page[alike->n], page, n * sizeof(*page));
	alike->n += n;
	alike->end[alike->guests++] = alike->n;
	return 0;
}

/* ---- all against all ----------------------------------------------------------------------- */

/* splitmix64's last steps: a product alone would put all of it into a few places by some keys. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* Where (hash) is, or would be. There is always a free slot. */
static uint32_t *find(const struct cs_alike *alike, uint32_t hash)
{
	const uint32_t want = (hash & MARKS) | TAKEN;
	size_t at = mix(want ^ alike->key);

	for (;; at++) {
		uint32_t *slot = &alike->slot[at & (alike->slots - 1)];

		if (!*slot || (*slot & ~TWICE) == want)
			return slot;
	}
}

int cs_alike_compare(struct cs_alike *alike)
{
	alike->slots = SLOTS_MIN;
	while (alike->slots < 2 * alike->n)
		alike->slots *= 2;
	alike->slot = calloc(alike->slots, sizeof(*alike->slot));
	if (!alike->slot)
		return -ENOMEM;
	for (size_t i = 0; i < alike->n; i++) {
		uint32_t *slot = find(alike, alike->page[i].hash);

		*slot = *slot ? *slot | TWICE : (alike->page[i].hash & MARKS) | TAKEN;
	}
	return 0;
}

/* ---- ranges -------------------------------------------------------------------------------- */

static bool is_alike(const struct cs_alike *alike, const struct cs_sketch_page *page)
{
	return *find(alike, page->hash) & TWICE;
}

static const struct cs_sketch_page *pages_of(const struct cs_alike *alike, size_t guest,
					     size_t *ret_n)
{
	const size_t begin = guest ? alike->end[guest - 1] : 0;

	*ret_n = alike->end[guest] - begin;
	return &alike->page[begin];
}

uint64_t cs_alike_unmerged(const struct cs_alike *alike, size_t guest)
{
	size_t n;
	const struct cs_sketch_page *page = pages_of(alike, guest, &n);
	uint64_t pages = 0;

	for (size_t i = 0; i < n; i++)
		pages += !(page[i].hash & CS_SKETCH_MERGED) && is_alike(alike, &page[i]);
	return pages;
}

struct ranges {
	struct cs_page_range *v;
	size_t n, room;
	uint64_t own; /* pages in them */
};

/* False: too many. */
static bool divide(const struct cs_alike *alike, const struct cs_sketch_page *page, size_t n,
		   size_t unlike_run, struct ranges *ranges)
{
	struct cs_page_range *last = NULL;
	size_t last_at = 0; /* the last page that is in a range */

	for (size_t i = 0; i < n; i++) {
		if (!is_alike(alike, &page[i]))
			continue;
		if (last && i - last_at <= unlike_run &&
		    page[i].page - page[last_at].page <= GAP_PAGES * unlike_run) {
			ranges->own += i - last_at;
		} else {
			if (ranges->n == ranges->room)
				return false;
			last = &ranges->v[ranges->n++];
			last->first = page[i].page;
			ranges->own++;
		}
		last->pages = page[i].page + 1 - last->first;
		last_at = i;
	}
	return true;
}

void cs_alike_ranges(const struct cs_alike *alike, size_t guest, struct cs_page_range *ret,
		     size_t room, size_t *ret_n, uint64_t *ret_pages)
{
	struct ranges ranges = { .v = ret, .room = room };
	size_t n, unlike_run = UNLIKE_RUN;
	const struct cs_sketch_page *page = pages_of(alike, guest, &n);

	/* When any number may lie between, it is one range. */
	while (!divide(alike, page, n, unlike_run, &ranges)) {
		unlike_run *= 2;
		ranges = (struct ranges){ .v = ret, .room = room };
	}
	*ret_n = ranges.n;
	*ret_pages = ranges.own;
}
