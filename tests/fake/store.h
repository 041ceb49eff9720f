/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store and a template played for the tests of cow/: folders and descriptors, nothing behind. */
#pragma once

#include "store/store.h"
#include "store/template.h"

/* A store whose guests/ is made in (dirfd). The caller frees. */
struct cs_store *cs_fake_store(int dirfd);

/* A template "debian@1" without parts. The caller frees. */
struct cs_template *cs_fake_template(void);

/* Its clones write to (pages) from (first) on when they wake, and to (more) behind those with the
 * first process. */
void cs_fake_template_hot(struct cs_template *t, uint32_t first, uint32_t pages, uint32_t more);

/* Give it (part); the descriptor stays the caller's. */
void cs_fake_template_part(struct cs_template *t, enum cs_part part, int fd, uint64_t bytes);
