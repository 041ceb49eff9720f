/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Libraries that few commands need and that bring many others: loaded when they are used, since
 * what a program is linked with costs each start of it, a spawn's too, milliseconds. A header that
 * owns such a library lists the functions it calls (X(name) ...) and makes a struct of them. */
#pragma once

#include <stddef.h>

#include "store/base/err.h"

/* A member of such a struct: a pointer to the function, under its name and with its type. */
#define CS_LIBRARY_CALL(name) __typeof__(&(name)) name;

struct cs_symbol {
	const char *name;
	size_t offset; /* of the pointer in the struct */
};

/* Load (soname) and fill the struct at (ret) with its (n) symbols; again costs little. The library
 * stays for as long as the process lives. -ENOENT: it is not there (of Debian's (package)), or
 * lacks a symbol; (ret) is as it was. */
int cs_library_load(const char *soname, const char *package, const struct cs_symbol symbols[],
		    size_t n, void *ret, struct cs_err *err);
