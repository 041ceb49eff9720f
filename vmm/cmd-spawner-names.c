/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the guests are called that are about to be started. */
#include "vmm/cmd-spawner.h"

#include <errno.h>
#include <stdio.h>

#include "store/base/io.h"

#define NUMBER_MAX 10000000u
#define ONE_BY_ONE 16u /* numbers from 1 on: beyond them a free one is looked for by halves */

/* 1: free, 0: taken, -1: too long to be a name. */
static int try_number(const struct cs_spawner *s, unsigned number, struct cs_spawn_guest *guest)
{
	if ((size_t)snprintf(guest->name, sizeof(guest->name), "%s-%u", s->prefix, number) >=
	    sizeof(guest->name))
		return -1;
	return cs_missing_at(cs_store_guests_fd(s->store), guest->name);
}

/* The number in front of a free one: with thousands of guests to try each would take longer than to
 * spawn one. Of gaps between them it may find any. */
static unsigned before_a_free_one(const struct cs_spawner *s, struct cs_spawn_guest *guest)
{
	unsigned taken = ONE_BY_ONE, free = ONE_BY_ONE * 2;

	for (unsigned n = 1; n <= ONE_BY_ONE; n++) {
		if (try_number(s, n, guest) != 0)
			return n - 1;
	}
	while (free < NUMBER_MAX && try_number(s, free, guest) == 0) {
		taken = free;
		free *= 2;
	}
	while (free - taken > 1) {
		const unsigned middle = taken + (free - taken) / 2;

		if (try_number(s, middle, guest) == 0)
			taken = middle;
		else
			free = middle;
	}
	return taken;
}

int cs_spawner_next_name(struct cs_spawner *s, struct cs_spawn_guest *guest, struct cs_err *err)
{
	int r = 0;

	if (!s->number)
		s->number = before_a_free_one(s, guest);
	while (r == 0 && s->number < NUMBER_MAX)
		r = try_number(s, ++s->number, guest);
	return r == 1 ? 0
		      : cs_fail(err, EEXIST, "no free name for a guest of '%s' (try --name)",
				s->prefix);
}

/* All names before the first fork: one that is taken must not leave half of the others behind. */
int cs_spawner_names(struct cs_spawner *s, const char *name, struct cs_err *err)
{
	int r;

	for (size_t i = 0; i < s->n; i++) {
		struct cs_spawn_guest *guest = &s->guests[i];

		if (!name) {
			r = cs_spawner_next_name(s, guest, err);
			if (r < 0)
				return r;
			continue;
		}
		if (s->n == 1)
			snprintf(guest->name, sizeof(guest->name), "%s", name);
		else
			snprintf(guest->name, sizeof(guest->name), "%s-%zu", name, i + 1);
		if (!cs_missing_at(cs_store_guests_fd(s->store), guest->name))
			return cs_fail(
				err, EEXIST,
				"guest '%s': there is one (try another --name, or clearstore "
				"remove %s)",
				guest->name, guest->name);
	}
	return 0;
}
