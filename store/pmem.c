/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/pmem.h"

#include <errno.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "store/base/own.h"
#include "store/libndctl.h"

struct walk {
	struct cs_libpmem lib;
	cs_pmem_fn fn;
	void *arg;
	char (*seen)[64]; /* DAX devices that are of a namespace */
	size_t n;
	int failed; /* -ENOMEM */
};

/* A library that has no number says so in many ways: all ones, or a negative. */
static uint64_t told(unsigned long long bytes)
{
	return bytes == ULLONG_MAX || bytes == ULONG_MAX ? 0 : bytes;
}

static void copy_name(char *to, size_t room, const char *from)
{
	snprintf(to, room, "%s", from ? from : "");
}

static void set_device(struct cs_pmem *pmem, const char *name)
{
	if (name && *name)
		snprintf(pmem->device, sizeof(pmem->device), "/dev/%.70s", name);
}

static const char *persistence_name(enum ndctl_persistence_domain domain)
{
	switch (domain) {
	case PERSISTENCE_CPU_CACHE:
		return "cpu_cache";
	case PERSISTENCE_MEM_CTRL:
		return "memory_controller";
	case PERSISTENCE_NONE:
		return "none";
	default:
		return "unknown";
	}
}

static const char *mode_name(int mode)
{
	switch (mode) {
	case NDCTL_NS_MODE_FSDAX:
		return "fsdax";
	case NDCTL_NS_MODE_DEVDAX:
		return "devdax";
	case NDCTL_NS_MODE_SECTOR:
		return "sector";
	case NDCTL_NS_MODE_RAW:
		return "raw";
	default:
		return "unknown";
	}
}

/* Where (pmem)'s block device is mounted, as this process sees it. */
static void find_holder(struct cs_pmem *pmem)
{
	struct mntent *entry, room;
	struct stat device, st;
	char text[4096];
	FILE *mounts;

	if (!pmem->device[0] || stat(pmem->device, &device) < 0 || !S_ISBLK(device.st_mode))
		return;
	mounts = setmntent("/proc/self/mounts", "re");
	while (mounts && (entry = getmntent_r(mounts, &room, text, sizeof(text)))) {
		if (stat(entry->mnt_fsname, &st) == 0 && S_ISBLK(st.st_mode) &&
		    st.st_rdev == device.st_rdev) {
			copy_name(pmem->holder, sizeof(pmem->holder), entry->mnt_dir);
			break;
		}
	}
	if (mounts)
		endmntent(mounts);
}

static void note_seen(struct walk *walk, const char *name)
{
	char(*larger)[64] = reallocarray(walk->seen, walk->n + 1, sizeof(*larger));

	if (!larger) {
		walk->failed = -ENOMEM;
		return;
	}
	walk->seen = larger;
	copy_name(larger[walk->n++], sizeof(larger[0]), name);
}

static bool was_seen(const struct walk *walk, const char *name)
{
	for (size_t i = 0; i < walk->n; i++) {
		if (strcmp(walk->seen[i], name) == 0)
			return true;
	}
	return false;
}

/* The device of a namespace is told by what claims it. */
static void describe_claim(struct walk *walk, struct ndctl_namespace *ndns, struct cs_pmem *pmem)
{
	const struct cs_libpmem *lib = &walk->lib;
	struct ndctl_pfn *pfn = lib->nd.ndctl_namespace_get_pfn(ndns);
	struct ndctl_dax *dax = lib->nd.ndctl_namespace_get_dax(ndns);
	struct ndctl_btt *btt = lib->nd.ndctl_namespace_get_btt(ndns);
	struct daxctl_region *region;
	struct daxctl_dev *dev;

	if (dax) {
		pmem->bytes = told(lib->nd.ndctl_dax_get_size(dax));
		pmem->align = told(lib->nd.ndctl_dax_get_align(dax));
		region = lib->nd.ndctl_dax_get_daxctl_region(dax);
		dev = region ? lib->dax.daxctl_dev_get_first(region) : NULL;
		for (; dev; dev = lib->dax.daxctl_dev_get_next(dev)) {
			note_seen(walk, lib->dax.daxctl_dev_get_devname(dev));
			if (!pmem->device[0])
				set_device(pmem, lib->dax.daxctl_dev_get_devname(dev));
			if (lib->dax.daxctl_dev_get_memory(dev))
				pmem->mode = "system-ram";
		}
	} else if (pfn) {
		pmem->bytes = told(lib->nd.ndctl_pfn_get_size(pfn));
		pmem->align = lib->nd.ndctl_pfn_has_align(pfn) > 0
				      ? told(lib->nd.ndctl_pfn_get_align(pfn))
				      : 0;
		set_device(pmem, lib->nd.ndctl_pfn_get_block_device(pfn));
	} else if (btt) {
		set_device(pmem, lib->nd.ndctl_btt_get_block_device(btt));
	} else {
		set_device(pmem, lib->nd.ndctl_namespace_get_block_device(ndns));
	}
}

static int visit_namespace(struct walk *walk, struct ndctl_namespace *ndns,
			   const struct cs_pmem *region)
{
	const struct cs_libpmem *lib = &walk->lib;
	struct cs_pmem pmem = {
		.kind = CS_PMEM_NAMESPACE,
		.mode = mode_name((int)lib->nd.ndctl_namespace_get_mode(ndns)),
		.bytes = told(lib->nd.ndctl_namespace_get_size(ndns)),
		.numa_node = lib->nd.ndctl_namespace_get_numa_node(ndns),
		.persistence = region->persistence,
		.enabled = lib->nd.ndctl_namespace_is_active(ndns),
	};

	if (!pmem.bytes) /* a seed, or one that vanished */
		return 0;
	copy_name(pmem.name, sizeof(pmem.name), lib->nd.ndctl_namespace_get_devname(ndns));
	copy_name(pmem.region, sizeof(pmem.region), region->name);
	copy_name(pmem.provider, sizeof(pmem.provider), region->provider);
	if (pmem.enabled)
		describe_claim(walk, ndns, &pmem);
	find_holder(&pmem);
	return walk->fn(&pmem, walk->arg);
}

static int visit_region(struct walk *walk, struct ndctl_bus *bus, struct ndctl_region *region)
{
	const struct cs_libpmem *lib = &walk->lib;
	struct cs_pmem pmem = {
		.kind = CS_PMEM_REGION,
		.bytes = told(lib->nd.ndctl_region_get_size(region)),
		.free_bytes = told(lib->nd.ndctl_region_get_available_size(region)),
		.align = told(lib->nd.ndctl_region_get_align(region)),
		.numa_node = lib->nd.ndctl_region_get_numa_node(region),
		.persistence =
			persistence_name(lib->nd.ndctl_region_get_persistence_domain(region)),
		.enabled = lib->nd.ndctl_region_is_enabled(region) > 0,
	};
	struct ndctl_namespace *ndns;
	int r;

	copy_name(pmem.name, sizeof(pmem.name), lib->nd.ndctl_region_get_devname(region));
	copy_name(pmem.provider, sizeof(pmem.provider), lib->nd.ndctl_bus_get_provider(bus));
	r = walk->fn(&pmem, walk->arg);
	if (r)
		return r;
	for (ndns = lib->nd.ndctl_namespace_get_first(region); ndns;
	     ndns = lib->nd.ndctl_namespace_get_next(ndns)) {
		r = visit_namespace(walk, ndns, &pmem);
		if (r)
			return r;
	}
	return 0;
}

static int visit_buses(struct walk *walk, struct ndctl_ctx *ctx)
{
	const struct cs_libpmem *lib = &walk->lib;
	struct ndctl_bus *bus;
	int r;

	for (bus = lib->nd.ndctl_bus_get_first(ctx); bus; bus = lib->nd.ndctl_bus_get_next(bus)) {
		struct ndctl_region *region;

		for (region = lib->nd.ndctl_region_get_first(bus); region;
		     region = lib->nd.ndctl_region_get_next(region)) {
			r = visit_region(walk, bus, region);
			if (r)
				return r;
		}
	}
	return 0;
}

/* DAX devices without a namespace under them. */
static int visit_dax(struct walk *walk, struct daxctl_ctx *ctx)
{
	const struct cs_libpmem *lib = &walk->lib;
	struct daxctl_region *region;
	struct daxctl_dev *dev;
	int r;

	for (region = lib->dax.daxctl_region_get_first(ctx); region;
	     region = lib->dax.daxctl_region_get_next(region)) {
		for (dev = lib->dax.daxctl_dev_get_first(region); dev;
		     dev = lib->dax.daxctl_dev_get_next(dev)) {
			struct cs_pmem pmem = {
				.kind = CS_PMEM_DAX,
				.mode = lib->dax.daxctl_dev_get_memory(dev) ? "system-ram"
									    : "devdax",
				.bytes = told(lib->dax.daxctl_dev_get_size(dev)),
				.align = told(lib->dax.daxctl_dev_get_align(dev)),
				.numa_node = lib->dax.daxctl_dev_get_target_node(dev),
				.persistence = "unknown",
				.enabled = lib->dax.daxctl_dev_is_enabled(dev) > 0,
			};

			copy_name(pmem.name, sizeof(pmem.name),
				  lib->dax.daxctl_dev_get_devname(dev));
			if (!pmem.bytes || was_seen(walk, pmem.name))
				continue;
			set_device(&pmem, pmem.name);
			r = walk->fn(&pmem, walk->arg);
			if (r)
				return r;
		}
	}
	return 0;
}

int cs_pmem_each(cs_pmem_fn fn, void *arg, struct cs_err *err)
{
	struct walk walk = { .fn = fn, .arg = arg };
	struct ndctl_ctx *ndctl = NULL;
	struct daxctl_ctx *daxctl = NULL;
	const struct cs_libpmem *lib = &walk.lib;
	int r;

	r = cs_libpmem_load(&walk.lib, err);
	if (r < 0)
		return r;
	r = lib->nd.ndctl_new(&ndctl);
	if (r < 0)
		return cs_fail_errno(err, -r, "libndctl");
	r = lib->dax.daxctl_new(&daxctl);
	if (r < 0) {
		lib->nd.ndctl_unref(ndctl);
		return cs_fail_errno(err, -r, "libdaxctl");
	}
	r = visit_buses(&walk, ndctl);
	if (r == 0)
		r = visit_dax(&walk, daxctl);
	lib->dax.daxctl_unref(daxctl);
	lib->nd.ndctl_unref(ndctl);
	free(walk.seen);
	if (r == 0 && walk.failed)
		return cs_fail_errno(err, -walk.failed, "persistent memory");
	return r;
}
