/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

int cs_library_load(const char *soname, const char *package, const struct cs_symbol symbols[],
		    size_t n, void *ret, struct cs_err *err)
{
	void *library = dlopen(soname, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE), *symbol;

	if (!library)
		return cs_fail(err, ENOENT, "%s cannot be loaded (apt-get install %s)", soname,
			       package);
	for (size_t i = 0; i < n; i++) {
		if (!dlsym(library, symbols[i].name)) {
			dlclose(library);
			return cs_fail(err, ENOENT, "%s has no %s", soname, symbols[i].name);
		}
	}
	for (size_t i = 0; i < n; i++) {
		symbol = dlsym(library, symbols[i].name);
		memcpy((char *)ret + symbols[i].offset, &symbol, sizeof(symbol));
	}
	/* Not unloaded by this, as it was asked for: only the reference goes. */
	dlclose(library);
	return 0;
}
