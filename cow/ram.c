/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/base/num.h"
#include "store/base/own.h"

#define ALIGN (UINT64_C(2) << 20) /* a huge page: guest and host address agree below it */

/* Addresses for (bytes) on an ALIGN boundary, private zeroes with (prot). NULL and errno. */
static void *map_aligned(uint64_t bytes, int prot)
{
	char *start, *aligned;
	uint64_t room;

	if (!cs_add_u64(bytes, ALIGN, &room)) {
		errno = ENOMEM;
		return NULL;
	}
	start = mmap(NULL, room, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		return NULL;
	aligned = start + (cs_align_up((uintptr_t)start, ALIGN) - (uintptr_t)start);
	if (aligned > start)
		munmap(start, (size_t)(aligned - start));
	if (aligned + bytes < start + room)
		munmap(aligned + bytes, (size_t)(start + room - (aligned + bytes)));
	return aligned;
}

/* No huge pages: the first byte written in each 2 MiB would cost all of it, and ksmd splits them
 * again before it merges (mm/ksm.c). Density counts here. EINVAL: a kernel without them. */
static int advise(const struct cs_seg *seg, struct cs_err *err)
{
	if (madvise(seg->host, seg->bytes, MADV_NOHUGEPAGE) < 0 && errno != EINVAL)
		return cs_fail_errno(err, errno, "guest memory: MADV_NOHUGEPAGE");
	if (madvise(seg->host, seg->bytes, MADV_DONTDUMP) < 0)
		return cs_fail_errno(err, errno, "guest memory: MADV_DONTDUMP");
	return 0;
}

static int map_anon(struct cs_seg *seg, struct cs_err *err)
{
	char text[CS_BYTES_TEXT];

	seg->host = map_aligned(seg->bytes, PROT_READ | PROT_WRITE);
	if (!seg->host)
		return cs_fail_errno(
			err, errno,
			"cannot map %s of guest memory (vm.overcommit_memory=2? see sysctl)",
			cs_format_bytes(seg->bytes, text));
	return advise(seg, err);
}

/* A file must reach into the last page of the segment; behind it there is SIGBUS. */
static int check_view(const char *what, const struct cs_seg *seg, const struct cs_view *view,
		      struct cs_err *err)
{
	char want[CS_BYTES_TEXT], have[CS_BYTES_TEXT];
	struct stat st;
	uint64_t end;

	if (view->offset % CS_PAGE_BYTES || !cs_add_u64(view->offset, seg->bytes, &end) ||
	    end > INT64_MAX)
		return cs_fail(err, EINVAL, "%s: does not begin on a page of its file", what);
	if (fstat(view->fd, &st) < 0)
		return cs_fail_errno(err, errno, "%s", what);
	if (S_ISCHR(st.st_mode) && view->media == CS_MEDIA_DEVDAX)
		return 0; /* has no size to be asked; mmap() itself checks it */
	if (!S_ISREG(st.st_mode))
		return cs_fail(err, EINVAL, "%s: neither a file nor a DAX device", what);
	if (cs_align_up((uint64_t)st.st_size, CS_PAGE_BYTES) < end)
		return cs_fail(err, EINVAL,
			       "%s: the file has %s, the guest would see %s (too short: make the "
			       "template anew)",
			       what, cs_format_bytes((uint64_t)st.st_size, have),
			       cs_format_bytes(end, want));
	return 0;
}

/* What differs between a root that is shared and a memory that each guest writes to. */
struct mapping {
	const char *what;
	int prot, flags;
};

static int map_view(struct cs_seg *seg, const struct cs_view *view, const struct mapping *how,
		    struct cs_err *err)
{
	void *host;
	int r;

	if (!view)
		return cs_fail(err, EINVAL, "%s: the plan has one, but the template has none",
			       how->what);
	r = check_view(how->what, seg, view, err);
	if (r < 0)
		return r;
	/* Addresses first, so that they are aligned; then the file over them. */
	seg->host = map_aligned(seg->bytes, PROT_NONE);
	if (!seg->host)
		return cs_fail_errno(err, errno, "%s: no addresses to map it at", how->what);
	host = mmap(seg->host, seg->bytes, how->prot, how->flags | MAP_FIXED, view->fd,
		    (off_t)view->offset);
	if (host == MAP_FAILED)
		return cs_fail_errno(err, errno, "%s: cannot map it", how->what);
	return 0;
}

static int map_root(struct cs_seg *seg, const struct cs_view *root, struct cs_err *err)
{
	static const struct mapping how = { "root", PROT_READ, MAP_SHARED };

	return map_view(seg, root, &how, err);
}

/* The segment's part of (memory), of which (used) bytes are the segments' before it. */
static int map_memory(struct cs_seg *seg, const struct cs_view *memory, uint64_t used,
		      struct cs_err *err)
{
	static const struct mapping how = { "memory", PROT_READ | PROT_WRITE,
					    MAP_PRIVATE | MAP_NORESERVE };
	struct cs_view piece;
	int r;

	if (memory)
		piece = *memory;
	if (memory && !cs_add_u64(memory->offset, used, &piece.offset))
		return cs_fail(err, EINVAL, "memory: too large");
	r = map_view(seg, memory ? &piece : NULL, &how, err);
	return r < 0 ? r : advise(seg, err);
}

int cs_ram_map(struct cs_ram *ram, const struct cs_view *root, const struct cs_view *memory,
	       struct cs_err *err)
{
	uint64_t used = 0;
	int r = 0;

	for (size_t i = 0; i < ram->n && r == 0; i++) {
		struct cs_seg *seg = &ram->seg[i];

		if (seg->backing == CS_BACKING_ANON)
			r = map_anon(seg, err);
		else if (seg->backing == CS_BACKING_SHARED)
			r = map_root(seg, root, err);
		else if (seg->backing == CS_BACKING_COW || seg->backing == CS_BACKING_DAXCOW)
			r = map_memory(seg, memory, used, err);
		else
			r = cs_fail(err, EOPNOTSUPP,
				    "guest memory: segment %zu is of no kind that "
				    "can be mapped",
				    i);
		used += seg->bytes;
	}
	if (r < 0)
		cs_ram_unmap(ram);
	return r;
}

static int populate(const struct cs_seg *seg, uint64_t offset, uint64_t bytes, void *arg)
{
	if (seg->backing != CS_BACKING_ANON)
		madvise((char *)seg->host + offset, bytes, MADV_POPULATE_WRITE);
	return 0;
}

void cs_ram_populate(const struct cs_ram *ram, const struct cs_page_range range[], size_t n)
{
	for (size_t i = 0; i < n; i++)
		cs_ram_each(ram, range[i].first, (uint64_t)range[i].first + range[i].pages,
			    populate, NULL);
}

/* Came with Linux 6.7 (include/uapi/linux/userfaultfd.h), Debian 12's headers are older. Nothing is
 * write-protected here, so no fault is ever anybody's to serve. */
#define FEATURE_WP_ASYNC (1u << 15)

int cs_ram_map_singly(const struct cs_ram *ram)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURE_WP_ASYNC };
	cs_auto(cs_fd_closep) int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	for (size_t i = 0; i < ram->n; i++) {
		const struct cs_seg *seg = &ram->seg[i];
		struct uffdio_register all = {
			.range = { .start = (uintptr_t)seg->host, .len = seg->bytes },
			.mode = UFFDIO_REGISTER_MODE_WP,
		};

		if ((seg->backing == CS_BACKING_COW || seg->backing == CS_BACKING_DAXCOW) &&
		    ioctl(fd, UFFDIO_REGISTER, &all) < 0)
			return -errno;
	}
	return cs_steal_fd(&fd);
}

void cs_ram_unmap(struct cs_ram *ram)
{
	for (size_t i = 0; i < ram->n; i++) {
		if (ram->seg[i].host)
			munmap(ram->seg[i].host, ram->seg[i].bytes);
		ram->seg[i].host = NULL;
	}
}
