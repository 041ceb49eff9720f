/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store for a test, and templates of a few bytes in it. */
#pragma once

#include <errno.h>

#include "store/base/io.h"
#include "store/manifest.h"
#include "tests/fake/tar.h"
#include "tests/unit/store-fixture.h"

static unsigned char vmlinux[CS_FAKE_VMLINUX_BYTES];

static inline struct cs_template_spec spec_of(struct fixture *f)
{
	cs_fake_vmlinux(vmlinux, "6.12.1-clearstore");
	cs_fake_file(f->scratch->fd, "vmlinux", vmlinux, sizeof(vmlinux));
	scratch_write(f->scratch->fd, "agent", "the agent");
	cs_mkdir_path(f->scratch->fd, "root/etc", 0755);
	scratch_write(f->scratch->fd, "root/etc/hostname", "guest\n");
	return (struct cs_template_spec){
		.name = "web",
		.from = fixture_path(f, "root"),
		.kernel = fixture_path(f, "vmlinux"),
		.agent = fixture_path(f, "agent"),
		.cmdline = "quiet",
		.disk_bytes = 64 * CS_MIB,
	};
}

static inline void add(struct fixture *f, const char *name)
{
	struct cs_template_spec spec = spec_of(f);

	spec.name = name;
	if (cs_template_add(f->store, &spec, NULL, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

static inline struct cs_template *open_one(struct fixture *f, const char *name)
{
	struct cs_template *t = NULL;

	f->err = (struct cs_err){ 0 };
	assert_true(cs_template_open(f->store, name, &t, &f->err) < 0 ? !t : t != NULL);
	return t;
}
