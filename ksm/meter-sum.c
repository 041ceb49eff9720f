/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sums: pure. */
#include "ksm/meter.h"

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static uint64_t pages(int64_t n)
{
	return n > 0 && n < INT64_MAX / 4096 ? (uint64_t)n * 4096 : 0;
}

struct cs_meter_guest cs_meter_guest_of(const struct cs_meter_process *process,
					const struct cs_meter_merging *merging)
{
	const uint64_t told = process->ksm_bytes != CS_METER_UNKNOWN ? process->ksm_bytes
								     : pages(merging->merged_pages);
	/* The two are read one after the other: a page may merge between. */
	const uint64_t merged = told < process->anon_bytes ? told : process->anon_bytes;

	return (struct cs_meter_guest){
		.private_bytes = process->anon_bytes - merged,
		.merged_bytes = merged,
		.zero_bytes = pages(merging->zero_pages),
		.shared_bytes = less(process->rss_bytes, process->anon_bytes),
		.page_table_bytes = process->page_table_bytes,
		.cost_bytes = process->pss_anon_bytes + process->page_table_bytes,
		.pss_bytes = process->pss_bytes,
		.cpu_ms = process->cpu_ms,
	};
}

void cs_meter_guest_add(struct cs_meter_guest *sum, const struct cs_meter_guest *guest)
{
	sum->private_bytes += guest->private_bytes;
	sum->merged_bytes += guest->merged_bytes;
	sum->zero_bytes += guest->zero_bytes;
	sum->shared_bytes += guest->shared_bytes;
	sum->page_table_bytes += guest->page_table_bytes;
	sum->cost_bytes += guest->cost_bytes;
	sum->pss_bytes += guest->pss_bytes;
	sum->cpu_ms += guest->cpu_ms;
}

struct cs_meter_used cs_meter_used_of(const struct cs_meter_host *host,
				      const struct cs_meter_unlisted *unlisted,
				      const struct cs_meter_guest *guests)
{
	const uint64_t files = host->active_file_bytes + host->inactive_file_bytes;

	struct cs_meter_used used = {
		.used_bytes = less(host->total_bytes, host->available_bytes),
		.guests_bytes = guests->cost_bytes,
		.kvm_bytes = host->sec_page_table_bytes,
		.others_bytes =
			less(host->anon_bytes, less(guests->cost_bytes, guests->page_table_bytes)),
		.tmpfs_bytes = host->shmem_bytes,
		/* What is merged, the kernel counts once, as it is there. */
		.kernel_bytes = host->unreclaimable_bytes + host->vmalloc_bytes +
				host->percpu_bytes +
				less(host->page_table_bytes, guests->page_table_bytes),
		.spare_bytes = unlisted->spare_bytes,
		.trace_bytes = unlisted->trace_bytes,
		.locked_bytes =
			less(host->cached_bytes + host->buffer_bytes, files + host->shmem_bytes),
		/* si_mem_available() of mm/show_mem.c takes these together, less its watermarks. */
		.held_back_bytes = unlisted->cpu_list_bytes +
				   less(host->free_bytes + files + host->reclaimable_bytes,
					host->available_bytes),
	};

	used.remainder_bytes =
		(int64_t)(used.used_bytes - used.guests_bytes - used.kvm_bytes - used.others_bytes -
			  used.tmpfs_bytes - used.kernel_bytes - used.spare_bytes -
			  used.trace_bytes - used.locked_bytes - used.held_back_bytes);
	return used;
}
