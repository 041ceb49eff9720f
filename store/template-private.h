/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Of template.c, for template-list.c. */
#pragma once

#include "store/template.h"

/* The active version of template (name) as a list has it: its parts are looked at, not opened. With
 * (quarantine) one that is in it is refused. Errors as of cs_template_open(). May be called in
 * several threads at once. */
int cs_template_look(struct cs_store *store, const char *name, bool quarantine,
		     struct cs_template **ret, struct cs_err *err);
