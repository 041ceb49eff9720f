/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/pmem.h"

#include <stddef.h>
#include <stdint.h>

#include "store/libndctl.h"

/* The libraries hand out pointers that only they look into: ours are numbers. */
#define HANDLE(type, n) ((type)(uintptr_t)((n) + 1))
#define NUMBER(handle)  ((size_t)(uintptr_t)(handle)-1)

/* A test has one world; a library's caller has no place to pass it by. */
static struct cs_fake_pmem *fake;

void cs_fake_pmem_set(struct cs_fake_pmem *to)
{
	fake = to;
}

static struct cs_fake_namespace *of(const void *handle)
{
	size_t n = NUMBER(handle);

	return n < CS_FAKE_PMEM_MAX ? &fake->ns[n] : &fake->dax[n - CS_FAKE_PMEM_MAX];
}

int ndctl_new(struct ndctl_ctx **ctx)
{
	if (fake->ndctl_fails)
		return fake->ndctl_fails;
	fake->contexts++;
	*ctx = HANDLE(struct ndctl_ctx *, 0);
	return 0;
}

struct ndctl_ctx *ndctl_unref(struct ndctl_ctx *ctx)
{
	fake->contexts--;
	return NULL;
}

int daxctl_new(struct daxctl_ctx **ctx)
{
	if (fake->daxctl_fails)
		return fake->daxctl_fails;
	fake->contexts++;
	*ctx = HANDLE(struct daxctl_ctx *, 0);
	return 0;
}

void daxctl_unref(struct daxctl_ctx *ctx)
{
	fake->contexts--;
}

struct ndctl_bus *ndctl_bus_get_first(struct ndctl_ctx *ctx)
{
	return fake->regions ? HANDLE(struct ndctl_bus *, 0) : NULL;
}

struct ndctl_bus *ndctl_bus_get_next(struct ndctl_bus *bus)
{
	return NULL;
}

const char *ndctl_bus_get_provider(struct ndctl_bus *bus)
{
	return fake->provider;
}

struct ndctl_region *ndctl_region_get_first(struct ndctl_bus *bus)
{
	return HANDLE(struct ndctl_region *, 0);
}

struct ndctl_region *ndctl_region_get_next(struct ndctl_region *region)
{
	size_t n = NUMBER(region) + 1;

	return n < fake->regions ? HANDLE(struct ndctl_region *, n) : NULL;
}

const char *ndctl_region_get_devname(struct ndctl_region *region)
{
	return NUMBER(region) ? "region1" : "region0";
}

unsigned long long ndctl_region_get_size(struct ndctl_region *region)
{
	return fake->region_bytes;
}

unsigned long long ndctl_region_get_available_size(struct ndctl_region *region)
{
	return fake->region_free;
}

unsigned long ndctl_region_get_align(struct ndctl_region *region)
{
	return 16UL << 20;
}

int ndctl_region_get_numa_node(struct ndctl_region *region)
{
	return fake->numa_node;
}

enum ndctl_persistence_domain ndctl_region_get_persistence_domain(struct ndctl_region *region)
{
	return fake->persistence;
}

int ndctl_region_is_enabled(struct ndctl_region *region)
{
	return fake->enabled;
}

struct ndctl_namespace *ndctl_namespace_get_first(struct ndctl_region *region)
{
	return NUMBER(region) || !fake->namespaces ? NULL : HANDLE(struct ndctl_namespace *, 0);
}

struct ndctl_namespace *ndctl_namespace_get_next(struct ndctl_namespace *ndns)
{
	size_t n = NUMBER(ndns) + 1;

	return n < fake->namespaces ? HANDLE(struct ndctl_namespace *, n) : NULL;
}

const char *ndctl_namespace_get_devname(struct ndctl_namespace *ndns)
{
	return of(ndns)->name;
}

enum ndctl_namespace_mode ndctl_namespace_get_mode(struct ndctl_namespace *ndns)
{
	return (enum ndctl_namespace_mode)of(ndns)->mode;
}

unsigned long long ndctl_namespace_get_size(struct ndctl_namespace *ndns)
{
	return of(ndns)->bytes;
}

int ndctl_namespace_get_numa_node(struct ndctl_namespace *ndns)
{
	return fake->numa_node;
}

bool ndctl_namespace_is_active(struct ndctl_namespace *ndns)
{
	return of(ndns)->enabled > 0;
}

const char *ndctl_namespace_get_block_device(struct ndctl_namespace *ndns)
{
	return of(ndns)->device;
}

static bool claimed(const void *handle, char by)
{
	return of(handle)->claimed && of(handle)->claimed[0] == by;
}

struct ndctl_pfn *ndctl_namespace_get_pfn(struct ndctl_namespace *ndns)
{
	return claimed(ndns, 'p') ? (struct ndctl_pfn *)(void *)ndns : NULL;
}

struct ndctl_dax *ndctl_namespace_get_dax(struct ndctl_namespace *ndns)
{
	return claimed(ndns, 'd') ? (struct ndctl_dax *)(void *)ndns : NULL;
}

struct ndctl_btt *ndctl_namespace_get_btt(struct ndctl_namespace *ndns)
{
	return claimed(ndns, 'b') ? (struct ndctl_btt *)(void *)ndns : NULL;
}

const char *ndctl_pfn_get_block_device(struct ndctl_pfn *pfn)
{
	return of(pfn)->device;
}

int ndctl_pfn_has_align(struct ndctl_pfn *pfn)
{
	return of(pfn)->has_align;
}

unsigned long ndctl_pfn_get_align(struct ndctl_pfn *pfn)
{
	return of(pfn)->align;
}

unsigned long long ndctl_pfn_get_size(struct ndctl_pfn *pfn)
{
	return of(pfn)->bytes - (2ULL << 20); /* its own head */
}

const char *ndctl_btt_get_block_device(struct ndctl_btt *btt)
{
	return of(btt)->device;
}

unsigned long long ndctl_dax_get_size(struct ndctl_dax *dax)
{
	return of(dax)->bytes;
}

unsigned long ndctl_dax_get_align(struct ndctl_dax *dax)
{
	return of(dax)->align;
}

struct daxctl_region *ndctl_dax_get_daxctl_region(struct ndctl_dax *dax)
{
	return of(dax)->device ? (struct daxctl_region *)(void *)dax : NULL;
}

struct daxctl_region *daxctl_region_get_first(struct daxctl_ctx *ctx)
{
	return fake->daxes ? HANDLE(struct daxctl_region *, CS_FAKE_PMEM_MAX) : NULL;
}

struct daxctl_region *daxctl_region_get_next(struct daxctl_region *region)
{
	return NULL;
}

struct daxctl_dev *daxctl_dev_get_first(struct daxctl_region *region)
{
	return (struct daxctl_dev *)(void *)region;
}

/* A namespace has one; the region of daxctl's own has all of its. */
struct daxctl_dev *daxctl_dev_get_next(struct daxctl_dev *dev)
{
	size_t n = NUMBER(dev) + 1;

	return n > CS_FAKE_PMEM_MAX && n - CS_FAKE_PMEM_MAX < fake->daxes
		       ? HANDLE(struct daxctl_dev *, n)
		       : NULL;
}

const char *daxctl_dev_get_devname(struct daxctl_dev *dev)
{
	return of(dev)->device;
}

unsigned long long daxctl_dev_get_size(struct daxctl_dev *dev)
{
	return of(dev)->bytes;
}

unsigned long daxctl_dev_get_align(struct daxctl_dev *dev)
{
	return of(dev)->align;
}

int daxctl_dev_get_target_node(struct daxctl_dev *dev)
{
	return fake->numa_node;
}

int daxctl_dev_is_enabled(struct daxctl_dev *dev)
{
	return of(dev)->enabled;
}

struct daxctl_memory *daxctl_dev_get_memory(struct daxctl_dev *dev)
{
	return of(dev)->memory ? (struct daxctl_memory *)(void *)dev : NULL;
}

/* ---- as they are loaded */

int cs_libpmem_load(struct cs_libpmem *ret, struct cs_err *err)
{
#define TAKE_ND(name) ret->nd.name = name;
	CS_LIBNDCTL_CALLS(TAKE_ND)
#undef TAKE_ND
#define TAKE_DAX(name) ret->dax.name = name;
	CS_LIBDAXCTL_CALLS(TAKE_DAX)
#undef TAKE_DAX
	return 0;
}
