/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/libarchive.h"

static const struct cs_symbol symbols[] = {
#define ROW(name) { #name, offsetof(struct cs_libarchive, name) },
	CS_LIBARCHIVE_CALLS(ROW)
#undef ROW
};

int cs_libarchive_load(struct cs_libarchive *ret, struct cs_err *err)
{
	/* The name that stands for the interface of archive.h as we were compiled with it. */
	return cs_library_load("libarchive.so.13", "libarchive13", symbols,
			       sizeof(symbols) / sizeof(symbols[0]), ret, err);
}
