/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libndctl and libdaxctl, loaded when devices are looked at: they bring udev, kmod and what those
 * need. */
#pragma once

#include <daxctl/libdaxctl.h>
#include <ndctl/libndctl.h>

#include "store/base/library.h"

#define CS_LIBNDCTL_CALLS(X)                                                                       \
	X(ndctl_btt_get_block_device)                                                              \
	X(ndctl_bus_get_first)                                                                     \
	X(ndctl_bus_get_next)                                                                      \
	X(ndctl_bus_get_provider)                                                                  \
	X(ndctl_dax_get_align)                                                                     \
	X(ndctl_dax_get_daxctl_region)                                                             \
	X(ndctl_dax_get_size)                                                                      \
	X(ndctl_namespace_get_block_device)                                                        \
	X(ndctl_namespace_get_btt)                                                                 \
	X(ndctl_namespace_get_dax)                                                                 \
	X(ndctl_namespace_get_devname)                                                             \
	X(ndctl_namespace_get_first)                                                               \
	X(ndctl_namespace_get_mode)                                                                \
	X(ndctl_namespace_get_next)                                                                \
	X(ndctl_namespace_get_numa_node)                                                           \
	X(ndctl_namespace_get_pfn)                                                                 \
	X(ndctl_namespace_get_size)                                                                \
	X(ndctl_namespace_is_active)                                                               \
	X(ndctl_new)                                                                               \
	X(ndctl_pfn_get_align)                                                                     \
	X(ndctl_pfn_get_block_device)                                                              \
	X(ndctl_pfn_get_size)                                                                      \
	X(ndctl_pfn_has_align)                                                                     \
	X(ndctl_region_get_align)                                                                  \
	X(ndctl_region_get_available_size)                                                         \
	X(ndctl_region_get_devname)                                                                \
	X(ndctl_region_get_first)                                                                  \
	X(ndctl_region_get_next)                                                                   \
	X(ndctl_region_get_numa_node)                                                              \
	X(ndctl_region_get_persistence_domain)                                                     \
	X(ndctl_region_get_size)                                                                   \
	X(ndctl_region_is_enabled)                                                                 \
	X(ndctl_unref)

#define CS_LIBDAXCTL_CALLS(X)                                                                      \
	X(daxctl_dev_get_align)                                                                    \
	X(daxctl_dev_get_devname)                                                                  \
	X(daxctl_dev_get_first)                                                                    \
	X(daxctl_dev_get_memory)                                                                   \
	X(daxctl_dev_get_next)                                                                     \
	X(daxctl_dev_get_size)                                                                     \
	X(daxctl_dev_get_target_node)                                                              \
	X(daxctl_dev_is_enabled)                                                                   \
	X(daxctl_new)                                                                              \
	X(daxctl_region_get_first)                                                                 \
	X(daxctl_region_get_next)                                                                  \
	X(daxctl_unref)

struct cs_libpmem {
	struct {
		CS_LIBNDCTL_CALLS(CS_LIBRARY_CALL)
	} nd;
	struct {
		CS_LIBDAXCTL_CALLS(CS_LIBRARY_CALL)
	} dax;
};

/* As cs_library_load(). */
int cs_libpmem_load(struct cs_libpmem *ret, struct cs_err *err);
