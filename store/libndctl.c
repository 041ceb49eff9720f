/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/libndctl.h"

static const struct cs_symbol ndctl[] = {
#define ROW(name) { #name, offsetof(struct cs_libpmem, nd.name) },
	CS_LIBNDCTL_CALLS(ROW)
#undef ROW
};

static const struct cs_symbol daxctl[] = {
#define ROW(name) { #name, offsetof(struct cs_libpmem, dax.name) },
	CS_LIBDAXCTL_CALLS(ROW)
#undef ROW
};

int cs_libpmem_load(struct cs_libpmem *ret, struct cs_err *err)
{
	/* The names that stand for the interfaces we were compiled with. */
	int r = cs_library_load("libndctl.so.6", "libndctl6", ndctl,
				sizeof(ndctl) / sizeof(ndctl[0]), ret, err);

	return r < 0 ? r
		     : cs_library_load("libdaxctl.so.1", "libdaxctl1", daxctl,
				       sizeof(daxctl) / sizeof(daxctl[0]), ret, err);
}
