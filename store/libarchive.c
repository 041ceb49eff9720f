/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/libarchive.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

/* The name that stands for the interface of archive.h as we were compiled with it. */
#define LIBRARY "libarchive.so.13"

struct call {
	const char *name;
	size_t offset;
};

static const struct call calls[] = {
#define ROW(name) { #name, offsetof(struct cs_libarchive, name) },
	CS_LIBARCHIVE_CALLS(ROW)
#undef ROW
};

int cs_libarchive_load(struct cs_libarchive *ret, struct cs_err *err)
{
	void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	struct cs_libarchive found;
	void *symbol;

	if (!library)
		return cs_fail(err, ENOENT,
			       LIBRARY " cannot be loaded (apt-get install "
				       "libarchive13)");
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		symbol = dlsym(library, calls[i].name);
		if (!symbol) {
			dlclose(library);
			return cs_fail(err, ENOENT, LIBRARY " has no %s", calls[i].name);
		}
		memcpy((char *)&found + calls[i].offset, &symbol, sizeof(symbol));
	}
	/* Not unloaded by this, as it was asked for: only the reference goes. */
	dlclose(library);
	*ret = found;
	return 0;
}
