/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/ksm-files.h"

/* Linux 6.1 */
const struct fake_file fake_ksm_old[] = {
	{ "ksm/run", "0\n" },
	{ "ksm/pages_to_scan", "100\n" },
	{ "ksm/sleep_millisecs", "20\n" },
	{ "ksm/use_zero_pages", "0\n" },
	{ "ksm/merge_across_nodes", "1\n" },
	{ "ksm/pages_shared", "11\n" },
	{ "ksm/pages_sharing", "222\n" },
	{ "ksm/pages_unshared", "3333\n" },
	{ "ksm/pages_volatile", "44\n" },
	{ "ksm/full_scans", "5\n" },
};

const size_t fake_ksm_old_n = sizeof(fake_ksm_old) / sizeof(fake_ksm_old[0]);

/* what Linux 6.8 has besides */
const struct fake_file fake_ksm_new[] = {
	{ "ksm/smart_scan", "1\n" },
	{ "ksm/advisor_mode", "[none] scan-time\n" },
	{ "ksm/advisor_max_cpu", "70\n" },
	{ "ksm/advisor_min_pages_to_scan", "500\n" },
	{ "ksm/advisor_max_pages_to_scan", "30000\n" },
	{ "ksm/advisor_target_scan_time", "200\n" },
	{ "ksm/pages_scanned", "66666\n" },
	{ "ksm/pages_skipped", "777\n" },
	{ "ksm/ksm_zero_pages", "88\n" },
	{ "ksm/general_profit", "-9999\n" },
	{ "proc/vmstat", "nr_free_pages 1\ncow_ksm 123\nksm_swpin_copy 4\n" },
	{ "proc/meminfo", "MemTotal:       2000 kB\nMemFree: 1 kB\nMemAvailable:   1000 kB\n"
			  "Buffers: 1 kB\nCached: 2 kB\nActive(file): 3 kB\nInactive(file): 4 kB\n"
			  "AnonPages:   300 kB\nShmem: 5 kB\nKReclaimable: 6 kB\nSlab: 7 kB\n"
			  "SUnreclaim: 8 kB\nKernelStack: 9 kB\nPageTables: 10 kB\n"
			  "SecPageTables: 11 kB\nVmallocUsed: 12 kB\nPercpu: 13 kB\n" },
	{ "proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=20755396\n"
				  "full avg10=0.00 avg60=0.00 avg300=0.00 total=7600623\n" },
	{ "proc/sys/kernel/random/boot_id", "5fd1-aa\n" },
	{ "proc/37/comm", "ksmd\n" },
	{ "proc/37/status", "Name:\tksmd\nPid:\t37\nPPid:\t2\nVmPTE:\t     120 kB\n" },
	{ "proc/37/schedstat", "1234567890 22 33\n" },
	{ "proc/36/comm", "ksmd\n" }, /* somebody's, who calls himself so */
	{ "proc/36/status", "Name:\tksmd\nPid:\t36\nPPid:\t1\n" },
	{ "proc/36/schedstat", "99 22 33\n" },
};

const size_t fake_ksm_new_n = sizeof(fake_ksm_new) / sizeof(fake_ksm_new[0]);
