/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the guests are called that are about to be started. */
#include "vmm/cmd-spawner.h"

#include <errno.h>
#include <stdio.h>

#include "store/base/io.h"

int cs_spawner_next_name(struct cs_spawner *s, struct cs_spawn_guest *guest, struct cs_err *err)
{
	while (s->number < 10000000) {
		s->number++;
		if ((size_t)snprintf(guest->name, sizeof(guest->name), "%s-%u", s->prefix,
				     s->number) >= sizeof(guest->name))
			break;
		if (cs_missing_at(cs_store_guests_fd(s->store), guest->name))
			return 0;
	}
	return cs_fail(err, EEXIST, "no free name for a guest of '%s' (try --name)", s->prefix);
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
