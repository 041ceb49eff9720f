/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's same-page merging, as sysfs shows it (Documentation/admin-guide/mm/ksm.rst), and
 * what of the rest of the host decides whether it pays. Kernels differ in what they have: what this
 * one has not is CS_KSM_UNKNOWN, never 0. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"

#define CS_KSM_DIR     "/sys/kernel/mm/ksm"
#define CS_KSM_UNKNOWN INT64_MIN

/* One look at everything. Counters only grow while the host is up; all are of the whole host. */
struct cs_ksm_sample {
	int64_t at_ms; /* monotonic clock */
	/* sysfs; pages of 4 KiB */
	int64_t pages_shared;   /* kept in the stable tree, each for several */
	int64_t pages_sharing;  /* mapped to one of those: the pages saved */
	int64_t pages_unshared; /* looked at, unique */
	int64_t pages_volatile; /* changed between two looks */
	int64_t pages_scanned;  /* counter; Linux 6.6 */
	int64_t pages_skipped;  /* counter, of smart_scan; Linux 6.7 */
	int64_t full_scans;     /* counter */
	int64_t zero_pages;     /* mapped to the kernel's zero page: saved too; Linux 6.6 */
	int64_t profit_bytes;   /* saved less what KSM needs itself; may be negative; Linux 6.4 */
	/* /proc */
	int64_t cow_ksm;          /* vmstat: counter of merged pages that were written to again */
	int64_t total_bytes;      /* meminfo: MemTotal */
	int64_t available_bytes;  /* MemAvailable */
	int64_t anon_bytes;       /* AnonPages */
	int64_t some_us, full_us; /* pressure/memory: counters of time lost for want of memory */
	int64_t ksmd_us;          /* counter: CPU time of ksmd */
	/* the caller's: not filled here */
	int64_t enrolled_bytes; /* private memory of the guests that may be merged */
};

/* What can be set. CS_KSM_UNKNOWN: the kernel has it not; to be applied: leave it as it is. */
struct cs_ksm_setting {
	int64_t run; /* 0: stand still, keep what is merged; 1: scan; 2: give all back, stand still
		      */
	int64_t pages_to_scan; /* between two sleeps */
	int64_t sleep_ms;
	int64_t use_zero_pages;  /* 1: zero pages become the kernel's own */
	int64_t smart_scan;      /* 1: what did not merge is looked at less often; Linux 6.7 */
	int64_t advisor_mode;    /* 0: none, 1: scan-time, which sets pages_to_scan; Linux 6.8 */
	int64_t advisor_max_cpu; /* percent of a core */
	int64_t advisor_min_pages_to_scan, advisor_max_pages_to_scan;
	int64_t advisor_target_scan_s; /* for a pass over everything */
};

/* A member by the name it has in traces, files and JSON. */
struct cs_ksm_field {
	const char *name;
	size_t offset; /* of an int64_t */
};
const struct cs_ksm_field *cs_ksm_sample_fields(size_t *ret_n);
const struct cs_ksm_field *cs_ksm_setting_fields(size_t *ret_n);
int64_t cs_ksm_field_get(const void *of, const struct cs_ksm_field *field);
void cs_ksm_field_set(void *of, const struct cs_ksm_field *field, int64_t value);

/* All members CS_KSM_UNKNOWN. */
struct cs_ksm_sample cs_ksm_sample_unknown(void);
struct cs_ksm_setting cs_ksm_setting_unknown(void);

/* Pages that merging saves now; 0 when not even that is known. */
int64_t cs_ksm_saved_pages(const struct cs_ksm_sample *sample);

/* Strict decimal, with '-' when (negative) is legal. -EINVAL, -ERANGE. */
int cs_ksm_parse(const char *text, bool negative, int64_t *ret);

struct cs_ksm;

/* (dir): CS_KSM_DIR, (proc): "/proc", or folders like them. -ENOENT: this kernel has no KSM. */
int cs_ksm_open(const char *dir, const char *proc, struct cs_ksm **ret, struct cs_err *err);

/* Look. -EBADMSG: a file that is there holds no number. Of /proc what cannot be read is not known.
 */
int cs_ksm_sample(struct cs_ksm *ksm, struct cs_ksm_sample *ret, struct cs_err *err);
int cs_ksm_read(const struct cs_ksm *ksm, struct cs_ksm_setting *ret, struct cs_err *err);

/* Write what differs from what is, in an order in which the kernel takes it. What the kernel has
 * not is left out. -EACCES with words: be root. What was written before a failure stays. */
int cs_ksm_apply(const struct cs_ksm *ksm, const struct cs_ksm_setting *want, struct cs_err *err);

/* May we set anything? -EACCES with words: be root. Nothing changes. */
int cs_ksm_may_set(const struct cs_ksm *ksm, struct cs_err *err);

/* What this kernel cannot do, for people: a line each, "" when it can do everything. */
const char *cs_ksm_missing(const struct cs_ksm_sample *sample, const struct cs_ksm_setting *setting,
			   char *text, size_t bytes);

struct cs_ksm *cs_ksm_free(struct cs_ksm *ksm);
CS_DEFINE_AUTO(cs_ksm);
