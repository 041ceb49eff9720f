/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/enroll.h"

#include <errno.h>
#include <sys/mman.h>

bool cs_ksm_may_merge(enum cs_backing backing)
{
	switch (backing) {
	case CS_BACKING_ANON:
	case CS_BACKING_COW:
		return true;
	case CS_BACKING_DAXCOW:
	case CS_BACKING_SHARED:
		return false;
	}
	return false;
}

static int advise(const struct cs_seg *seg, bool on)
{
	if (!cs_ksm_may_merge(seg->backing) || !seg->host)
		return 0;
	return madvise(seg->host, seg->bytes, on ? MADV_MERGEABLE : MADV_UNMERGEABLE) < 0 ? -errno
											  : 0;
}

int cs_ksm_enroll(const struct cs_ram *ram, bool on, uint64_t *ret_bytes, struct cs_err *err)
{
	uint64_t bytes = 0;
	size_t i;
	int r = 0;

	for (i = 0; i < ram->n && r == 0; i++) {
		r = advise(&ram->seg[i], on);
		if (r == 0 && cs_ksm_may_merge(ram->seg[i].backing) && ram->seg[i].host)
			bytes += ram->seg[i].bytes;
	}
	if (r == 0) {
		if (ret_bytes)
			*ret_bytes = bytes;
		return 0;
	}
	/* Half a guest in the tree would be neither the one nor the other. */
	while (on && i-- > 0)
		advise(&ram->seg[i], false);
	if (r == -EINVAL)
		return cs_fail(err, EINVAL, "this kernel merges no memory (CONFIG_KSM)");
	return cs_fail_errno(err, r,
			     on ? "cannot let its memory be merged"
				: "cannot take its memory out of merging");
}
