/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/ksm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ksm/ksm-private.h"
#include "store/base/io.h"
#include "store/base/num.h"

#define COUNT(array)   (sizeof(array) / sizeof((array)[0]))
#define FILE_BYTES_MAX 4096

struct cs_ksm {
	int dirfd;
	struct cs_ksm_proc proc;
};

/* ---- tables -------------------------------------------------------------------------------- */

#define SAMPLE(member)                                                                             \
	{                                                                                          \
#member, offsetof(struct cs_ksm_sample, member)                                    \
	}
#define SETTING(member)                                                                            \
	{                                                                                          \
#member, offsetof(struct cs_ksm_setting, member)                                   \
	}

static const struct cs_ksm_field sample_fields[] = {
	SAMPLE(at_ms),           SAMPLE(pages_shared),   SAMPLE(pages_sharing),
	SAMPLE(pages_unshared),  SAMPLE(pages_volatile), SAMPLE(pages_scanned),
	SAMPLE(pages_skipped),   SAMPLE(full_scans),     SAMPLE(zero_pages),
	SAMPLE(profit_bytes),    SAMPLE(cow_ksm),        SAMPLE(total_bytes),
	SAMPLE(available_bytes), SAMPLE(anon_bytes),     SAMPLE(some_us),
	SAMPLE(full_us),         SAMPLE(ksmd_us),        SAMPLE(enrolled_bytes),
};

static const struct cs_ksm_field setting_fields[] = {
	SETTING(run),
	SETTING(pages_to_scan),
	SETTING(sleep_ms),
	SETTING(use_zero_pages),
	SETTING(smart_scan),
	SETTING(advisor_mode),
	SETTING(advisor_max_cpu),
	SETTING(advisor_min_pages_to_scan),
	SETTING(advisor_max_pages_to_scan),
	SETTING(advisor_target_scan_s),
};

const struct cs_ksm_field *cs_ksm_sample_fields(size_t *ret_n)
{
	*ret_n = COUNT(sample_fields);
	return sample_fields;
}

const struct cs_ksm_field *cs_ksm_setting_fields(size_t *ret_n)
{
	*ret_n = COUNT(setting_fields);
	return setting_fields;
}

int64_t cs_ksm_field_get(const void *of, const struct cs_ksm_field *field)
{
	int64_t value;

	memcpy(&value, (const char *)of + field->offset, sizeof(value));
	return value;
}

void cs_ksm_field_set(void *of, const struct cs_ksm_field *field, int64_t value)
{
	memcpy((char *)of + field->offset, &value, sizeof(value));
}

struct cs_ksm_sample cs_ksm_sample_unknown(void)
{
	struct cs_ksm_sample sample;

	for (size_t i = 0; i < COUNT(sample_fields); i++)
		cs_ksm_field_set(&sample, &sample_fields[i], CS_KSM_UNKNOWN);
	return sample;
}

struct cs_ksm_setting cs_ksm_setting_unknown(void)
{
	struct cs_ksm_setting setting;

	for (size_t i = 0; i < COUNT(setting_fields); i++)
		cs_ksm_field_set(&setting, &setting_fields[i], CS_KSM_UNKNOWN);
	return setting;
}

int64_t cs_ksm_saved_pages(const struct cs_ksm_sample *sample)
{
	const int64_t sharing = sample->pages_sharing > 0 ? sample->pages_sharing : 0;
	const int64_t zero = sample->zero_pages > 0 ? sample->zero_pages : 0;

	return sharing > INT64_MAX - zero ? INT64_MAX : sharing + zero;
}

/* ---- reading ------------------------------------------------------------------------------- */

int cs_ksm_parse(const char *text, bool negative, int64_t *ret)
{
	const bool minus = negative && text[0] == '-';
	uint64_t value;
	int r;

	r = cs_parse_u64(text + minus, INT64_MAX, &value);
	if (r < 0)
		return r;
	*ret = minus ? -(int64_t)value : (int64_t)value;
	return 0;
}

/* -ENOENT: this kernel has no such file; *ret is then not known. */
static int read_number(const struct cs_ksm *ksm, const char *name, bool negative, int64_t *ret,
		       struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	size_t bytes;
	int r;

	r = cs_read_file_at(ksm->dirfd, name, FILE_BYTES_MAX, &text, &bytes);
	if (r == -ENOENT) {
		*ret = CS_KSM_UNKNOWN;
		return 0;
	}
	if (r < 0)
		return cs_fail_errno(err, -r, "KSM: cannot read '%s'", name);
	/* sysfs ends each with a newline: without it something is missing. */
	if (bytes != strlen(text) || !bytes || text[bytes - 1] != '\n')
		return cs_fail(err, EBADMSG, "KSM: '%s' was cut off", name);
	text[bytes - 1] = '\0';
	if (cs_ksm_parse(text, negative, ret) < 0)
		return cs_fail(err, EBADMSG, "KSM: '%s' is no number that can be", name);
	return 0;
}

/* "[none] scan-time": the one in brackets. */
static int read_advisor(const struct cs_ksm *ksm, int64_t *ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	r = cs_read_file_at(ksm->dirfd, "advisor_mode", FILE_BYTES_MAX, &text, NULL);
	if (r == -ENOENT) {
		*ret = CS_KSM_UNKNOWN;
		return 0;
	}
	if (r < 0)
		return cs_fail_errno(err, -r, "KSM: cannot read 'advisor_mode'");
	if (strstr(text, "[none]"))
		*ret = 0;
	else if (strstr(text, "[scan-time]"))
		*ret = 1;
	else
		return cs_fail(err, EBADMSG, "KSM: 'advisor_mode' is none that is known");
	return 0;
}

int cs_ksm_sample(struct cs_ksm *ksm, struct cs_ksm_sample *ret, struct cs_err *err)
{
	struct cs_ksm_sample s = cs_ksm_sample_unknown();
	const struct {
		const char *file;
		int64_t *to;
	} files[] = {
		{ "pages_shared", &s.pages_shared },     { "pages_sharing", &s.pages_sharing },
		{ "pages_unshared", &s.pages_unshared }, { "pages_volatile", &s.pages_volatile },
		{ "pages_scanned", &s.pages_scanned },   { "pages_skipped", &s.pages_skipped },
		{ "full_scans", &s.full_scans },         { "ksm_zero_pages", &s.zero_pages },
		{ "general_profit", &s.profit_bytes },
	};
	struct timespec now;
	int r;

	for (size_t i = 0; i < COUNT(files); i++) {
		r = read_number(ksm, files[i].file, files[i].to == &s.profit_bytes, files[i].to,
				err);
		if (r < 0)
			return r;
	}
	cs_ksm_proc_sample(&ksm->proc, &s);
	clock_gettime(CLOCK_MONOTONIC, &now);
	s.at_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
	*ret = s;
	return 0;
}

/* What can be set, in the order in which it is written: the advisor's bounds before the advisor,
 * and that before pages_to_scan, which it refuses while it is on and resets when it is switched. */
struct knob {
	const char *file;
	size_t offset;
};

#define KNOB(file, member)                                                                         \
	{                                                                                          \
		file, offsetof(struct cs_ksm_setting, member)                                      \
	}

static const struct knob knobs[] = {
	KNOB("advisor_max_cpu", advisor_max_cpu),
	KNOB("advisor_min_pages_to_scan", advisor_min_pages_to_scan),
	KNOB("advisor_max_pages_to_scan", advisor_max_pages_to_scan),
	KNOB("advisor_target_scan_time", advisor_target_scan_s),
	KNOB("advisor_mode", advisor_mode),
	KNOB("pages_to_scan", pages_to_scan),
	KNOB("sleep_millisecs", sleep_ms),
	KNOB("use_zero_pages", use_zero_pages),
	KNOB("smart_scan", smart_scan),
};

static int64_t knob_of(const struct cs_ksm_setting *setting, const struct knob *knob)
{
	int64_t value;

	memcpy(&value, (const char *)setting + knob->offset, sizeof(value));
	return value;
}

int cs_ksm_read(const struct cs_ksm *ksm, struct cs_ksm_setting *ret, struct cs_err *err)
{
	struct cs_ksm_setting found = cs_ksm_setting_unknown();
	int64_t value;
	int r;

	r = read_number(ksm, "run", false, &found.run, err);
	for (size_t i = 0; i < COUNT(knobs) && r == 0; i++) {
		if (knobs[i].offset == offsetof(struct cs_ksm_setting, advisor_mode))
			r = read_advisor(ksm, &value, err);
		else
			r = read_number(ksm, knobs[i].file, false, &value, err);
		if (r == 0)
			memcpy((char *)&found + knobs[i].offset, &value, sizeof(value));
	}
	if (r < 0)
		return r;
	*ret = found;
	return 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

static int write_text(const struct cs_ksm *ksm, const char *name, const char *text,
		      struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd =
		openat(ksm->dirfd, name, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW);
	char line[32];
	int code, n;

	n = snprintf(line, sizeof(line), "%s\n", text);
	if (fd >= 0 && write(fd, line, (size_t)n) == n)
		return 0;
	code = errno;
	if (code == EACCES || code == EPERM || code == EROFS)
		return cs_fail(err, EACCES, "no permission to set KSM's '%s' (be root)", name);
	return cs_fail_errno(err, code, "KSM: cannot set '%s' to %s", name, text);
}

static int write_number(const struct cs_ksm *ksm, const char *name, int64_t value,
			struct cs_err *err)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	return write_text(ksm, name, text, err);
}

static int write_knob(const struct cs_ksm *ksm, const struct knob *knob, int64_t value,
		      struct cs_err *err)
{
	if (knob->offset == offsetof(struct cs_ksm_setting, advisor_mode))
		return write_text(ksm, knob->file, value ? "scan-time" : "none", err);
	return write_number(ksm, knob->file, value, err);
}

static bool differs(int64_t want, int64_t is)
{
	return want != CS_KSM_UNKNOWN && is != CS_KSM_UNKNOWN && want != is;
}

static int write_knobs(const struct cs_ksm *ksm, const struct cs_ksm_setting *want,
		       const struct cs_ksm_setting *is, struct cs_err *err)
{
	const bool advised = want->advisor_mode == 1 ||
			     (want->advisor_mode == CS_KSM_UNKNOWN && is->advisor_mode == 1);
	const bool switched = differs(want->advisor_mode, is->advisor_mode);

	for (size_t i = 0; i < COUNT(knobs); i++) {
		const bool pages =
			knobs[i].offset == offsetof(struct cs_ksm_setting, pages_to_scan);
		const int64_t value = knob_of(want, &knobs[i]), old = knob_of(is, &knobs[i]);
		int r;

		if (pages && advised)
			continue;
		if (!differs(value, old) && !(pages && switched && value != CS_KSM_UNKNOWN))
			continue;
		r = write_knob(ksm, &knobs[i], value, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int cs_ksm_apply(const struct cs_ksm *ksm, const struct cs_ksm_setting *want, struct cs_err *err)
{
	struct cs_ksm_setting is;
	bool run;
	int r;

	r = cs_ksm_read(ksm, &is, err);
	if (r < 0)
		return r;
	/* What stops goes first, what starts last: nothing runs by half of the new. */
	run = differs(want->run, is.run);
	if (run && want->run != 1) {
		r = write_number(ksm, "run", want->run, err);
		if (r < 0)
			return r;
	}
	r = write_knobs(ksm, want, &is, err);
	if (r < 0)
		return r;
	return run && want->run == 1 ? write_number(ksm, "run", want->run, err) : 0;
}

int cs_ksm_may_set(const struct cs_ksm *ksm, struct cs_err *err)
{
	if (faccessat(ksm->dirfd, "run", W_OK, AT_EACCESS) == 0)
		return 0;
	if (errno == EACCES || errno == EPERM || errno == EROFS)
		return cs_fail(err, EACCES,
			       "no permission to set KSM (be root; in a container it "
			       "may be read-only)");
	return cs_fail_errno(err, errno, "KSM: cannot set it");
}

/* ---- words --------------------------------------------------------------------------------- */

const char *cs_ksm_missing(const struct cs_ksm_sample *sample, const struct cs_ksm_setting *setting,
			   char *text, size_t bytes)
{
	const struct {
		int64_t value;
		const char *words;
	} list[] = {
		{ setting->advisor_mode, "no advisor (Linux 6.8 has one)" },
		{ setting->smart_scan, "no smart_scan: pages that never merge are scanned like all "
				       "others (6.7)" },
		{ sample->zero_pages, "no count of zero pages: they are merged like others (6.6)" },
		{ sample->profit_bytes, "no general_profit (6.4)" },
		{ sample->pages_scanned, "no count of scanned pages: passes are told by full_scans "
					 "alone (6.6)" },
		{ sample->cow_ksm, "no count of pages written to again (5.19)" },
		{ sample->some_us, "no pressure figures (psi=1 on the kernel's command line)" },
		{ sample->ksmd_us, "no ksmd to be seen: its CPU time is estimated" },
	};
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; i < COUNT(list) && used < bytes; i++) {
		if (list[i].value == CS_KSM_UNKNOWN)
			used += (size_t)snprintf(text + used, bytes - used, "%s\n", list[i].words);
	}
	return text;
}

/* ---- opening ------------------------------------------------------------------------------- */

int cs_ksm_open(const char *dir, const char *proc, struct cs_ksm **ret, struct cs_err *err)
{
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = calloc(1, sizeof(*ksm));
	int r;

	if (!ksm)
		return cs_fail_errno(err, ENOMEM, "KSM");
	ksm->proc.fd = -1;
	ksm->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (ksm->dirfd < 0 && errno == ENOENT)
		return cs_fail(err, ENOENT, "this kernel has no KSM (no '%s': CONFIG_KSM)", dir);
	if (ksm->dirfd < 0)
		return cs_fail_errno(err, errno, "KSM: cannot open '%s'", dir);
	r = cs_ksm_proc_open(proc, &ksm->proc);
	if (r < 0)
		return cs_fail_errno(err, -r, "KSM: cannot open '%s'", proc);
	*ret = cs_steal(ksm);
	return 0;
}

struct cs_ksm *cs_ksm_free(struct cs_ksm *ksm)
{
	if (!ksm)
		return NULL;
	cs_fd_closep(&ksm->dirfd);
	cs_fd_closep(&ksm->proc.fd);
	free(ksm);
	return NULL;
}
