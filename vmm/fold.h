/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages that a guest wrote and that are what they were before it did: of a machine that goes on
 * from a saved one, those equal to the page of the template's memory; of one that was booted, zero
 * pages. They go back, and the guest finds the same there as before. No other guest is involved, as
 * with merging: nobody can tell by timing what another has.
 *
 * They are looked for while the guest runs; what was found is looked at again, and given back,
 * while its vCPUs stand still, for little more than CS_FOLD_STOP_US at a time. All are called in
 * the loop thread, lock held. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"

#define CS_FOLD_STOP_US 1000

struct cs_control_client;
struct cs_fold;
struct cs_machine;

/* Begin: (client) gets its answer, "looked=PAGES folded=PAGES stops=N longest_us=N total_us=N",
 * when all was looked at. -EBUSY: it is at it already; -EOPNOTSUPP: this host does not tell which
 * pages are the machine's own. */
int cs_fold_begin(struct cs_machine *machine, struct cs_control_client *client, struct cs_err *err);

/* Is (client) the one that waits for it? */
bool cs_fold_is_for(const struct cs_fold *fold, const struct cs_control_client *client);

/* Nobody waits for it any more, or the machine ends: what is not looked at stays as it is. */
struct cs_fold *cs_fold_free(struct cs_fold *fold);
CS_DEFINE_AUTO(cs_fold);
