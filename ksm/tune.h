/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The loop: look, decide, set, sleep. */
#pragma once

#include <stdbool.h>

#include "ksm/policy.h"

/* What cs_tune_ops.prepare says, besides -errno. */
enum {
	CS_TUNE_GO,
	CS_TUNE_WAIT,     /* it is not done; asked again at once */
	CS_TUNE_CALL_OFF, /* there is too little to be had */
};

struct cs_tune_ops {
	/* Look after the guests; (now) is what was just seen, without them. *ret_bytes: private
	 * memory of those that are enrolled. */
	int (*guests)(void *arg, const struct cs_ksm_sample *now, int64_t *ret_bytes,
		      struct cs_err *err);
	/* A look is about to begin: get the guests ready. May be NULL. (hurry): asked again, and
	 * memory is short; not CS_TUNE_WAIT then. *ret_bytes: what (guests) would say now; that it
	 * may be less than before is no sign that guests have gone. */
	int (*prepare)(void *arg, const struct cs_ksm_sample *now, bool hurry, int64_t *ret_bytes,
		       struct cs_err *err);
	/* What was decided, each time. */
	void (*decided)(void *arg, const struct cs_ksm_sample *now,
			const struct cs_ksm_setting *set, const struct cs_ksm_mind *mind);
};

struct cs_tune_spec {
	struct cs_ksm *ksm; /* lent, like all of it */
	const struct cs_ksm_policy *policy;
	struct cs_ksm_limits limits;
	int stop_fd;     /* readable: end */
	int pressure_fd; /* of cs_pressure_open(), -1: none: it looks twice a second in any case */
	int trace_fd;    /* gets a line a decision (ksm/trace.h), -1: none */
	bool once;       /* end when everything was looked at, or there is nothing to look at */
	const struct cs_tune_ops *ops;
	void *arg;
};

/* Until it is told to stop, or something fails. Settings stay as they are then: ksm/keep.h has what
 * was there before. */
int cs_tune_run(const struct cs_tune_spec *spec, struct cs_err *err);
