/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest costs, from a /proc that is honest and from one that is not. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "ksm/ksm.h"
#include "ksm/meter.h"
#include "store/base/num.h"
#include "tests/unit/scratch.h"

#define ROLLUP                                                                                     \
	"55e0-7ffd ---p 00000000 00:00 0   [rollup]\n"                                             \
	"Rss:                4000 kB\n"                                                            \
	"Pss:                3000 kB\n"                                                            \
	"Pss_Dirty:          2500 kB\n"                                                            \
	"Pss_Anon:           2000 kB\n"                                                            \
	"Private_Dirty:      1000 kB\n"                                                            \
	"Anonymous:          2500 kB\n"
#define STATUS "Name:\tVmPTE: 9 kB\nVmPTE:\t     120 kB\nThreads:\t3\n"
#define STAT   "42 (x y) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 2222 20\n"
#define MEMINFO                                                                                    \
	"MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n"                               \
	"Cached:          3 kB\nSwapCached: 99 kB\nAnonPages:       4 kB\nSlab:            5 kB\n" \
	"MemFree:  11 kB\nActive(file): 12 kB\nInactive(file): 13 kB\nActive: 99 kB\n"             \
	"Shmem: 14 kB\nKReclaimable: 15 kB\nSUnreclaim: 16 kB\nVmallocUsed: 17 kB\n"               \
	"KernelStack:     6 kB\nPageTables:      7 kB\nSecPageTables:   8 kB\nPercpu:          9 " \
	"kB\n"

static void make_process(struct scratch *scratch, const char *rollup, const char *status,
			 const char *stat)
{
	mkdirat(scratch->fd, "42", 0700);
	scratch_write(scratch->fd, "42/smaps_rollup", rollup);
	scratch_write(scratch->fd, "42/status", status);
	scratch_write(scratch->fd, "42/stat", stat);
}

static void test_process(void **state)
{
	struct scratch *scratch = *state;
	struct cs_meter_process got;

	make_process(scratch, ROLLUP, STATUS, STAT);
	assert_int_equal(cs_meter_process(scratch->path, 42, &got, NULL), 0);
	assert_int_equal(got.rss_bytes, 4000 * CS_KIB);
	assert_int_equal(got.pss_bytes, 3000 * CS_KIB);
	assert_int_equal(got.pss_anon_bytes, 2000 * CS_KIB);
	assert_int_equal(got.private_dirty_bytes, 1000 * CS_KIB);
	assert_int_equal(got.anon_bytes, 2500 * CS_KIB);
	assert_true(got.ksm_bytes == CS_METER_UNKNOWN);
	make_process(scratch, ROLLUP "KSM:  12 kB\n", STATUS, STAT);
	assert_int_equal(cs_meter_process(scratch->path, 42, &got, NULL), 0);
	assert_int_equal(got.ksm_bytes, 12 * CS_KIB);
	assert_int_equal(got.page_table_bytes, 120 * CS_KIB);
	assert_int_equal(got.cpu_ms, 200 * 1000 / sysconf(_SC_CLK_TCK));
}

#define MAPPING(head, pss, anon, flags)                                                            \
	head "\nSize:   8 kB\nPss:   " pss " kB\nPss_Dirty: 4 kB\nAnonymous:   " anon              \
	     " kB\nTHPeligible:           0\nVmFlags: " flags " \n"
#define HEAP                                                                                       \
	MAPPING("5500-5600 rw-p 00000000 00:00 0    [heap]", "12", "16", "rd wr mr mw me ac sd")
#define TEXT MAPPING("7000-7100 r-xp 00002000 fe:00 24  /a: b-c nh", "100", "0", "rd ex")
#define DATA MAPPING("7100-7200 rw-p 00003000 fe:00 24  /a", "30", "8", "rd wr nhx")
#define RAM  MAPPING("7f00-7fff rw-p 00000000 00:00 0", "9000", "9000", "rd wr dd nh")

static void test_monitor(void **state)
{
	static const struct {
		const char *smaps;
		int rc;
		uint64_t kib;
	} rows[] = {
		{ HEAP, 0, 12 },
		{ RAM, 0, 0 },
		{ TEXT, 0, 0 },
		{ TEXT DATA HEAP RAM RAM, 0, 20 },
		{ RAM HEAP, 0, 12 },
		{ "", 0, 0 },
		{ "no mapping\n", -EBADMSG, 0 },
		{ HEAP "5500-5600 rw-p 00000000 00:00 0\nPss: 1 kB\n", -EBADMSG, 0 },
		{ HEAP "VmFlags: rd\n", -EBADMSG, 0 },
		{ MAPPING("1-2 rw-p 0 00:00 0", "x", "1", "rd"), -EBADMSG, 0 },
		{ MAPPING("1-2 rw-p 0 00:00 0", "1", "-1", "rd"), -EBADMSG, 0 },
		{ MAPPING("1-2 rw-p 0 00:00 0", "1", "99999999999999999999", "rd"), -EBADMSG, 0 },
		{ "1-2 rw-p 0 00:00 0\nPss: 1 kB\nVmFlags: rd\n", -EBADMSG, 0 },
	};
	struct scratch *scratch = *state;
	uint64_t got;

	mkdirat(scratch->fd, "42", 0700);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		scratch_write(scratch->fd, "42/smaps", rows[i].smaps);
		got = 1;
		assert_int_equal(cs_meter_monitor(scratch->path, 42, &got), rows[i].rc);
		assert_int_equal(got, rows[i].rc < 0 ? 1 : rows[i].kib * CS_KIB);
	}
	assert_int_equal(cs_meter_monitor(scratch->path, 41, &got), -ESRCH);
	assert_int_equal(cs_meter_monitor(scratch->path, 0, &got), -ESRCH);
}

/* Of this process: memory like a guest's is left out, other memory is counted. */
static void test_monitor_here(void **state)
{
	const size_t bytes = 8 * CS_MIB;
	uint64_t before, after;
	char *ram;

	ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(ram != MAP_FAILED);
	if (madvise(ram, bytes, MADV_NOHUGEPAGE) < 0)
		skip(); /* a kernel without huge pages has no such mark */
	memset(ram, 1, bytes);
	assert_int_equal(cs_meter_monitor("/proc", getpid(), &before), 0);
	assert_int_equal(madvise(ram, bytes, MADV_HUGEPAGE), 0);
	assert_int_equal(cs_meter_monitor("/proc", getpid(), &after), 0);
	assert_true(after >= before + bytes && after < before + 2 * bytes);
	munmap(ram, bytes);
}

static void test_broken_process(void **state)
{
	static const struct {
		const char *rollup, *status, *stat;
	} rows[] = {
		{ "", STATUS, STAT },
		{ "Rss: 1 kB\nPss: 1 kB\nPss_Anon: 1 kB\n", STATUS, STAT },
		{ "Rss: 1 kB\nPss: 1 kB\nPss_Anon: 1 kB\nPrivate_Dirty: 1", STATUS, STAT },
		{ "Rss: 1 kB\nPss: 1 kB\nPss_Anon: 1 kB\nPrivate_Dirty: 1 kB", STATUS, STAT },
		{ "Rss: -1 kB\nPss: 1 kB\nPss_Anon: 1 kB\nPrivate_Dirty: 1 kB\n", STATUS, STAT },
		{ "Rss: kB\nPss: 1 kB\nPss_Anon: 1 kB\nPrivate_Dirty: 1 kB\n", STATUS, STAT },
		{ "Rss: 1 MB\nPss: 1 kB\nPss_Anon: 1 kB\nPrivate_Dirty: 1 kB\n", STATUS, STAT },
		{ "Rss: 18014398509481984 kB\nPss: 1 kB\nPss_Anon: 1 kB\nPrivate_Dirty: 1 kB\n",
		  STATUS, STAT },
		{ "Rss: 99999999999999999999999999999999 kB\nPss: 1 kB\nPss_Anon: 1 kB\n"
		  "Private_Dirty: 1 kB\n",
		  STATUS, STAT },
		{ ROLLUP, "", STAT },
		{ ROLLUP, "Name:\tx\n", STAT },
		{ ROLLUP, STATUS, "" },
		{ ROLLUP, STATUS, "42 (x) S 1" },
		{ ROLLUP, STATUS,
		  "42 (x) S 1 2 3 4 5 6 7 8 9 10 9223372036854775807 50 13 14 15 16 17 18 2222" },
	};
	struct scratch *scratch = *state;
	struct cs_meter_process got = { .rss_bytes = 77 };
	struct cs_err err;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		make_process(scratch, rows[i].rollup, rows[i].status, rows[i].stat);
		err = (struct cs_err){ .code = 0 };
		assert_int_equal(cs_meter_process(scratch->path, 42, &got, &err), -EBADMSG);
		assert_memory_equal(err.text, "process 42: ", 12);
		assert_int_equal(got.rss_bytes, 77);
	}
}

static void test_no_process(void **state)
{
	struct scratch *scratch = *state;
	struct cs_meter_process got;
	struct cs_err err = { .code = 0 };

	assert_int_equal(cs_meter_process(scratch->path, 41, &got, &err), -ESRCH);
	assert_int_equal(cs_meter_process("/proc", 0, &got, &err), -ESRCH);
	assert_int_equal(cs_meter_process("/proc", -1, &got, &err), -ESRCH);
	/* died between two files */
	mkdirat(scratch->fd, "42", 0700);
	assert_int_equal(cs_meter_process(scratch->path, 42, &got, &err), -ESRCH);
	assert_true(err.text[0]);
}

static void test_host(void **state)
{
	struct scratch *scratch = *state;
	struct cs_meter_host got;

	scratch_write(scratch->fd, "meminfo", MEMINFO);
	assert_int_equal(cs_meter_host(scratch->path, &got, NULL), 0);
	assert_int_equal(got.total_bytes, 24000000 * CS_KIB);
	assert_int_equal(got.available_bytes, 20000000 * CS_KIB);
	assert_int_equal(got.cached_bytes, 3 * CS_KIB);
	assert_int_equal(got.anon_bytes, 4 * CS_KIB);
	assert_int_equal(got.slab_bytes, 5 * CS_KIB);
	assert_int_equal(got.kernel_stack_bytes, 6 * CS_KIB);
	assert_int_equal(got.page_table_bytes, 7 * CS_KIB);
	assert_int_equal(got.sec_page_table_bytes, 8 * CS_KIB);
	assert_int_equal(got.percpu_bytes, 9 * CS_KIB);
	assert_int_equal(got.free_bytes, 11 * CS_KIB);
	assert_int_equal(got.active_file_bytes, 12 * CS_KIB);
	assert_int_equal(got.inactive_file_bytes, 13 * CS_KIB);
	assert_int_equal(got.shmem_bytes, 14 * CS_KIB);
	assert_int_equal(got.reclaimable_bytes, 15 * CS_KIB);
	assert_int_equal(got.unreclaimable_bytes, 16 * CS_KIB);
	assert_int_equal(got.vmalloc_bytes, 17 * CS_KIB);
}

/* What merging does for a process, as several kernels say it. */
static void test_merging(void **state)
{
	static const struct {
		const char *text;
		int r;
		int64_t tracked, merged, zero, profit;
	} rows[] = {
		{ "ksm_rmap_items 5\nksm_zero_pages 6\nksm_merging_pages 7\nksm_process_profit "
		  "-8\n",
		  0, 5, 7, 6, -8 },
		{ "ksm_rmap_items: 5\nksm_merge_any: no\nksm_mergeable: yes\n", 0, 5,
		  CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN },
		{ "", 0, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN },
		{ "ksm_rmap_items\n", -EBADMSG, 0, 0, 0, 0 },
		{ "ksm_rmap_items -5\n", -EBADMSG, 0, 0, 0, 0 },
		{ "ksm_rmap_items 99999999999999999999\n", -EBADMSG, 0, 0, 0, 0 },
		{ "ksm_rmap_items x\n", -EBADMSG, 0, 0, 0, 0 },
	};
	struct scratch *scratch = *state;
	struct cs_meter_merging got;

	mkdirat(scratch->fd, "42", 0700);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		scratch_write(scratch->fd, "42/ksm_stat", rows[i].text);
		assert_int_equal(cs_meter_merging(scratch->path, 42, &got), rows[i].r);
		if (rows[i].r)
			continue;
		assert_true(got.tracked_pages == rows[i].tracked);
		assert_true(got.merged_pages == rows[i].merged);
		assert_true(got.zero_pages == rows[i].zero);
		assert_true(got.profit_bytes == rows[i].profit);
	}
	assert_int_equal(cs_meter_merging(scratch->path, -1, &got), -ESRCH);
}

static void test_private(void **state)
{
	static const struct {
		const char *text;
		int r;
		uint64_t bytes;
	} rows[] = {
		{ "9 7 3 1 0 5 0\n", 0, 4 * 4096 },
		{ "9 3 7 1 0 5 0\n", 0, 0 },
		{ "9 7\n", -EBADMSG, 0 },
		{ "9 7 3", -EBADMSG, 0 },
		{ "", -EBADMSG, 0 },
		{ "9 -7 3 1\n", -EBADMSG, 0 },
		{ "9 9223372036854775807 3 1\n", -EBADMSG, 0 },
	};
	struct scratch *scratch = *state;
	uint64_t bytes;

	mkdirat(scratch->fd, "42", 0700);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		scratch_write(scratch->fd, "42/statm", rows[i].text);
		bytes = 0;
		assert_int_equal(cs_meter_private(scratch->path, 42, &bytes), rows[i].r);
		assert_int_equal(bytes, rows[i].bytes);
	}
	assert_int_equal(cs_meter_private("/proc", getpid(), &bytes), 0);
	assert_true(bytes > 0);
}

/* All that is not available is somewhere. */
static void test_sums(void **state)
{
	const struct cs_meter_process process = { .rss_bytes = 100 * CS_MIB,
						  .anon_bytes = 40 * CS_MIB,
						  .pss_anon_bytes = 25 * CS_MIB,
						  .page_table_bytes = CS_MIB,
						  .ksm_bytes = CS_METER_UNKNOWN };
	struct cs_meter_process newer = process;
	const struct cs_meter_merging merging = { .merged_pages = 5120, .zero_pages = 256 };
	const struct cs_meter_merging none = { CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN,
					       CS_KSM_UNKNOWN };
	struct cs_meter_guest guest = cs_meter_guest_of(&process, &merging);
	struct cs_meter_guest sum = { .cpu_ms = 0 };
	struct cs_meter_unlisted unlisted;
	struct cs_meter_host host;
	struct cs_meter_used used;

	assert_int_equal(guest.private_bytes, 20 * CS_MIB);
	assert_int_equal(guest.merged_bytes, 20 * CS_MIB);
	assert_int_equal(guest.zero_bytes, CS_MIB);
	assert_int_equal(guest.shared_bytes, 60 * CS_MIB);
	assert_int_equal(guest.cost_bytes, 26 * CS_MIB);
	/* What the page tables say goes before what the scan has not corrected yet. */
	newer.ksm_bytes = 8 * CS_MIB;
	guest = cs_meter_guest_of(&newer, &merging);
	assert_int_equal(guest.private_bytes, 32 * CS_MIB);
	assert_int_equal(guest.merged_bytes, 8 * CS_MIB);
	guest = cs_meter_guest_of(&process, &none);
	assert_int_equal(guest.private_bytes, 40 * CS_MIB);
	assert_int_equal(guest.zero_bytes, 0);

	assert_int_equal(cs_meter_host("/proc", &host, NULL), 0);
	unlisted = (struct cs_meter_unlisted){ .cpu_list_bytes = 3 * CS_MIB,
					       .trace_bytes = CS_MIB,
					       .spare_bytes = 2 * CS_MIB };
	used = cs_meter_used_of(&host, &unlisted, &sum);
	assert_int_equal(used.used_bytes, used.guests_bytes + used.kvm_bytes + used.others_bytes +
						  used.tmpfs_bytes + used.kernel_bytes +
						  used.spare_bytes + used.trace_bytes +
						  used.locked_bytes + used.held_back_bytes +
						  (uint64_t)used.remainder_bytes);
	cs_meter_guest_add(&sum, &guest);
	cs_meter_guest_add(&sum, &guest);
	assert_int_equal(sum.cost_bytes, 52 * CS_MIB);
}

/* Made up in full, so that each part has its place. */
static void test_parts(void **state)
{
	const struct cs_meter_guest guests = { .cost_bytes = 30, .page_table_bytes = 4 };
	const struct cs_meter_unlisted unlisted = { .cpu_list_bytes = 7,
						    .trace_bytes = 11,
						    .spare_bytes = 13 };
	const struct cs_meter_host host = { .total_bytes = 1000,
					    .available_bytes = 700,
					    .free_bytes = 600,
					    .active_file_bytes = 60,
					    .inactive_file_bytes = 50,
					    .reclaimable_bytes = 9,
					    .cached_bytes = 120,
					    .buffer_bytes = 10,
					    .shmem_bytes = 15,
					    .anon_bytes = 126,
					    .page_table_bytes = 10,
					    .sec_page_table_bytes = 3,
					    .unreclaimable_bytes = 40,
					    .vmalloc_bytes = 8,
					    .percpu_bytes = 2 };
	const struct cs_meter_used used = cs_meter_used_of(&host, &unlisted, &guests);

	assert_int_equal(used.used_bytes, 300);
	assert_int_equal(used.guests_bytes, 30);
	assert_int_equal(used.others_bytes, 100);
	assert_int_equal(used.tmpfs_bytes, 15);
	assert_int_equal(used.kvm_bytes, 3);
	assert_int_equal(used.kernel_bytes, 40 + 8 + 2 + 6);
	assert_int_equal(used.locked_bytes, 5);
	assert_int_equal(used.held_back_bytes, 7 + 19);
	assert_int_equal(used.remainder_bytes, 300 - 30 - 100 - 15 - 3 - 56 - 5 - 26 - 11 - 13);
}

static void test_cpu_lists(void **state)
{
	struct scratch *scratch = *state;
	static const struct {
		const char *text;
		uint64_t want;
	} rows[] = {
		{ "  pagesets\n    cpu: 0\n              count:    1023\n"
		  "              high:     1443\n    cpu: 1\n              count:    1\n",
		  1024 * 4096 },
		{ "", 0 },
		{ "              count:    1023", 0 }, /* cut off */
		{ "              count:    -5\n", 0 },
		{ "              count:    99999999999999999999999999\n", 0 },
		{ "              count:    9999999999999999\n              count: 2\n", 8192 },
		{ "              accounts: 3\n", 0 },
		{ " count: x\n count:\n count: 2x\n count: 1\n", 4096 },
	};

	assert_int_equal(cs_meter_cpu_lists("/no/such"), 0);
	assert_int_equal(cs_meter_cpu_lists(scratch->path), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		scratch_write(scratch->fd, "zoneinfo", rows[i].text);
		assert_int_equal(cs_meter_cpu_lists(scratch->path), rows[i].want);
	}
}

static void test_tracing(void **state)
{
	struct scratch *scratch = *state;

	assert_int_equal(cs_meter_tracing("/no/such"), 0);
	assert_int_equal(cs_meter_tracing(scratch->path), 0);
	scratch_write(scratch->fd, "buffer_total_size_kb", "14 (expanded: 2816)\n");
	assert_int_equal(cs_meter_tracing(scratch->path), 14 * CS_KIB);
	assert_int_equal(mkdirat(scratch->fd, "instances", 0700), 0);
	assert_int_equal(mkdirat(scratch->fd, "instances/one", 0700), 0);
	assert_int_equal(mkdirat(scratch->fd, "instances/empty", 0700), 0);
	scratch_write(scratch->fd, "instances/one/buffer_total_size_kb", "2816\n");
	assert_int_equal(cs_meter_tracing(scratch->path), 2830 * CS_KIB);
	scratch_write(scratch->fd, "buffer_total_size_kb", "-1\n");
	assert_int_equal(cs_meter_tracing(scratch->path), 2816 * CS_KIB);
	scratch_write(scratch->fd, "buffer_total_size_kb", "77");
	assert_int_equal(cs_meter_tracing(scratch->path), 2816 * CS_KIB);
}

static void test_spare(void **state)
{
	assert_int_equal(cs_meter_spare(0, true), 0);
	assert_int_equal(cs_meter_spare(2, true), 2 * 43 * 4096);
	assert_int_equal(cs_meter_spare(1, false), 83 * 4096);
	assert_int_equal(cs_meter_spare(UINT64_MAX, false), 0);
}

static void test_host_of_an_older_kernel(void **state)
{
	struct scratch *scratch = *state;
	struct cs_meter_host got;
	char text[] = MEMINFO;

	memcpy(strstr(text, "SecPageTables"), "Other", 5);
	scratch_write(scratch->fd, "meminfo", text);
	assert_int_equal(cs_meter_host(scratch->path, &got, NULL), 0);
	assert_int_equal(got.sec_page_table_bytes, 0);
	assert_int_equal(got.percpu_bytes, 9 * CS_KIB);
}

/* Cut off anywhere but behind the last line: refused, and nothing is touched. */
static void test_truncated_host(void **state)
{
	struct scratch *scratch = *state;
	struct cs_meter_host got = { .total_bytes = 77 };
	char text[sizeof(MEMINFO)];

	for (size_t n = 0; n + 1 < sizeof(MEMINFO) - 1; n += 3) {
		memcpy(text, MEMINFO, n);
		text[n] = '\0';
		scratch_write(scratch->fd, "meminfo", text);
		assert_int_equal(cs_meter_host(scratch->path, &got, NULL), -EBADMSG);
	}
	assert_int_equal(got.total_bytes, 77);
	assert_int_equal(unlinkat(scratch->fd, "meminfo", 0), 0);
	assert_true(cs_meter_host(scratch->path, &got, NULL) < 0);
	assert_int_equal(cs_meter_host("/no/such", &got, NULL), -ENOENT);
}

/* The real /proc: 32 MiB of ours are seen to come. */
static void test_the_real_one(void **state)
{
	const size_t bytes = 32 * CS_MIB;
	struct cs_meter_process before, after;
	struct cs_meter_host host;
	char *data;

	assert_int_equal(cs_meter_host("/proc", &host, NULL), 0);
	assert_true(host.available_bytes > 0 && host.available_bytes <= host.total_bytes);
	assert_int_equal(cs_meter_process("/proc", getpid(), &before, NULL), 0);
	data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(data, MAP_FAILED);
	memset(data, 1, bytes);
	assert_int_equal(cs_meter_process("/proc", getpid(), &after, NULL), 0);
	munmap(data, bytes);
	assert_in_range(after.private_dirty_bytes - before.private_dirty_bytes, bytes - CS_MIB,
			bytes + CS_MIB);
	assert_in_range(after.pss_anon_bytes - before.pss_anon_bytes, bytes - CS_MIB,
			bytes + CS_MIB);
	assert_true(after.pss_bytes <= after.rss_bytes);
	assert_true(after.page_table_bytes > 0);
}

#define SCRATCH_TEST(test) cmocka_unit_test_setup_teardown(test, scratch_make, scratch_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SCRATCH_TEST(test_process),
		SCRATCH_TEST(test_monitor),
		cmocka_unit_test(test_monitor_here),
		SCRATCH_TEST(test_broken_process),
		SCRATCH_TEST(test_no_process),
		SCRATCH_TEST(test_host),
		cmocka_unit_test(test_parts),
		SCRATCH_TEST(test_cpu_lists),
		SCRATCH_TEST(test_tracing),
		cmocka_unit_test(test_spare),
		SCRATCH_TEST(test_host_of_an_older_kernel),
		SCRATCH_TEST(test_truncated_host),
		SCRATCH_TEST(test_merging),
		SCRATCH_TEST(test_private),
		cmocka_unit_test(test_sums),
		cmocka_unit_test(test_the_real_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
