/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of the kernel's that say anything, or are not there: KSM's in sysfs, those of a process and
 * of the host in /proc, and what a tuner kept. What cannot be read is not known or is refused; what
 * is accepted is in bounds. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ksm/keep.h"
#include "ksm/ksm.h"
#include "ksm/meter.h"
#include "tests/fake/ksm-files.h"
#include "tests/fuzz/fuzz.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))
#define PID      37

const uint64_t fuzz_inputs = 2000;

/* Besides those of tests/fake/ksm-files.h. */
static const struct fake_file more_files[] = {
	{ "proc/zoneinfo",
	  "Node 0, zone DMA\n  pagesets\n    cpu: 0\n              count:    12\n" },
	{ "proc/37/statm", "1000 500 300 1 0 200 0\n" },
	{ "proc/37/stat", "37 (x y) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 2222 20\n" },
	{ "proc/37/ksm_stat", "ksm_rmap_items 5\nksm_zero_pages 1\nksm_merging_pages 3\n"
			      "ksm_process_profit -70\nksm_merge_any: no\nksm_mergeable: yes\n" },
	{ "proc/37/smaps_rollup",
	  "55e0-7ffd ---p 00000000 00:00 0   [rollup]\nRss: 4000 kB\nPss: 3000 kB\nPss_Anon: "
	  "2000 kB\nPrivate_Dirty: 1000 kB\nAnonymous: 2500 kB\nKSM: 12 kB\n" },
	{ "proc/37/smaps",
	  "00400000-00500000 rw-p 00000000 00:00 0 \nAnonymous: 40 kB\nVmFlags: rd "
	  "wr nh\n00600000-00700000 rw-p 00000000 00:00 0 \nAnonymous: 4 "
	  "kB\nVmFlags: rd wr\n" },
	{ "run/ksm.saved", "format 1\nboot 5fd1-aa\nrun 0\npages_to_scan 100\nsleep_ms 20\n" },
};

/* NULL: there are no more. */
static const struct fake_file *nth_file(size_t i)
{
	if (i < fake_ksm_old_n)
		return &fake_ksm_old[i];
	i -= fake_ksm_old_n;
	if (i < fake_ksm_new_n)
		return &fake_ksm_new[i];
	i -= fake_ksm_new_n;
	return i < N(more_files) ? &more_files[i] : NULL;
}

static void put(int dirfd, const char *name, const char *text, size_t bytes)
{
	const int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	fuzz_require(fd >= 0);
	fuzz_require(write(fd, text, bytes) == (ssize_t)bytes);
	close(fd);
}

/* A file that is gone, cut off, has a number that no kernel has, or bytes from somewhere. */
static void spoil(int dirfd, struct fuzz_input *in, const struct fake_file *file)
{
	static const char *const numbers[] = { "-1",
					       "99999999999999999999999999",
					       "9223372036854775807",
					       "-9223372036854775808",
					       "18446744073709551615",
					       "0x10",
					       "",
					       "1e9",
					       "+1",
					       " ",
					       "007" };
	const size_t length = strlen(file->text);
	char text[4096];
	size_t at, end, n;

	memcpy(text, file->text, length + 1);
	switch (fuzz_byte(in) % 4) {
	case 0:
		fuzz_require(unlinkat(dirfd, file->name, 0) == 0 || errno == ENOENT);
		return;
	case 1:
		put(dirfd, file->name, text, fuzz_u16(in) % (length + 1));
		return;
	case 2: /* another number in place of one of its own */
		at = fuzz_u16(in) % length;
		at += strcspn(text + at, "-0123456789");
		end = at + strspn(text + at, "-0123456789");
		n = (size_t)snprintf(text + at, sizeof(text) - at, "%s%s",
				     numbers[fuzz_byte(in) % N(numbers)], file->text + end);
		put(dirfd, file->name, text, at + n);
		return;
	default:
		for (unsigned i = fuzz_byte(in) % 8; i; i--)
			text[fuzz_u16(in) % length] = (char)fuzz_byte(in);
		put(dirfd, file->name, text, length);
		return;
	}
}

static void check_ksm(const struct cs_ksm *ksm, const struct cs_ksm_sample *sample,
		      const struct cs_ksm_setting *setting)
{
	const struct cs_ksm_field *fields;
	char text[1024];
	size_t n;

	fields = cs_ksm_sample_fields(&n);
	for (size_t i = 0; i < n; i++) {
		const int64_t value = cs_ksm_field_get(sample, &fields[i]);

		fuzz_require(value >= 0 || value == CS_KSM_UNKNOWN ||
			     strcmp(fields[i].name, "profit_bytes") == 0 ||
			     strcmp(fields[i].name, "general_profit") == 0);
	}
	fuzz_require(cs_ksm_saved_pages(sample) >= 0);
	cs_ksm_missing(sample, setting, text, sizeof(text));
	(void)ksm;
}

static void read_ksm(const char *dir, const char *proc, const char *run)
{
	struct cs_ksm_sample sample = cs_ksm_sample_unknown();
	struct cs_ksm_setting setting = cs_ksm_setting_unknown();
	cs_auto(cs_ksm_keep_freep) struct cs_ksm_keep *keep = NULL;
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
	struct cs_err err = { 0 };
	bool was;

	if (cs_ksm_open(dir, proc, &ksm, &err) < 0) {
		fuzz_require(err.text[0]);
		return;
	}
	if (cs_ksm_sample(ksm, &sample, &err) == 0 && cs_ksm_read(ksm, &setting, &err) == 0)
		check_ksm(ksm, &sample, &setting);
	else
		fuzz_require(err.text[0]);
	if (cs_ksm_keep_open(run, proc, &keep, NULL) == 0)
		cs_ksm_keep_restore(keep, ksm, &was, NULL);
}

static void read_meter(const char *proc)
{
	struct cs_meter_unlisted unlisted = { .cpu_list_bytes = cs_meter_cpu_lists(proc) };
	struct cs_meter_merging merging = { CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN,
					    CS_KSM_UNKNOWN };
	struct cs_meter_process process = { .rss_bytes = 0 };
	struct cs_meter_host host;
	struct cs_meter_guest guest;
	struct cs_err err = { 0 };
	uint64_t bytes;

	if (cs_meter_process(proc, PID, &process, &err) < 0)
		fuzz_require(err.text[0]);
	cs_meter_merging(proc, PID, &merging);
	cs_meter_private(proc, PID, &bytes);
	cs_meter_monitor(proc, PID, &bytes);
	guest = cs_meter_guest_of(&process, &merging);
	fuzz_require(guest.merged_bytes <= process.anon_bytes);
	err = (struct cs_err){ 0 };
	if (cs_meter_host(proc, &host, &err) == 0)
		cs_meter_used_of(&host, &unlisted, &guest);
	else
		fuzz_require(err.text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const char *const folders[] = { "ksm",
					       "run",
					       "proc",
					       "proc/36",
					       "proc/37",
					       "proc/pressure",
					       "proc/sys",
					       "proc/sys/kernel",
					       "proc/sys/kernel/random" };
	struct fuzz_input in = { data, bytes };
	const unsigned spoiled = 1 + fuzz_byte(&in) % 3;
	char path[64], dir[80], proc[80], run[80];
	const struct fake_file *file;
	int dirfd;
	size_t n;

	/* A folder for each process, that of a fixed name: what is good in it is written anew. */
	snprintf(path, sizeof(path), "/dev/shm/fuzz-proc.%d", (int)getpid());
	fuzz_require(mkdir(path, 0700) == 0 || errno == EEXIST);
	dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fuzz_require(dirfd >= 0);
	for (size_t i = 0; i < N(folders); i++)
		fuzz_require(mkdirat(dirfd, folders[i], 0700) == 0 || errno == EEXIST);
	for (n = 0; (file = nth_file(n)); n++)
		put(dirfd, file->name, file->text, strlen(file->text));
	for (unsigned i = 0; i < spoiled; i++)
		spoil(dirfd, &in, nth_file(fuzz_byte(&in) % n));
	snprintf(dir, sizeof(dir), "%s/ksm", path);
	snprintf(proc, sizeof(proc), "%s/proc", path);
	snprintf(run, sizeof(run), "%s/run", path);
	read_meter(proc);
	read_ksm(dir, proc, run);
	/* Nothing is left behind, however it ends. */
	for (n = 0; (file = nth_file(n)); n++)
		unlinkat(dirfd, file->name, 0);
	unlinkat(dirfd, "run/ksm.lock", 0);
	for (size_t i = N(folders); i-- > 0;)
		unlinkat(dirfd, folders[i], AT_REMOVEDIR);
	close(dirfd);
	rmdir(path);
	return 0;
}
