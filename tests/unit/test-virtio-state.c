/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Virtio devices that are saved and go on in a clone, with its copy of the guest's memory; and
 * states that no driver could have brought about. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/driver.h"
#include "vmm/virtio-devices.h"

#define SIZE       8
#define DISK_BYTES (UINT64_C(1) << 20)
#define EVENT      2 /* queue of the vsock device */

typedef struct cs_virtio *(*make_fn)(struct fake_guest *guest, int fd);

static struct cs_virtio *make_rng(struct fake_guest *guest, int fd)
{
	struct cs_virtio *dev = NULL;

	assert_int_equal(cs_virtio_rng_create(&dev, NULL), 0);
	return dev;
}

static struct cs_virtio *make_balloon(struct fake_guest *guest, int fd)
{
	struct cs_virtio *dev = NULL;

	assert_int_equal(cs_virtio_balloon_create(&dev, NULL), 0);
	return dev;
}

static struct cs_virtio *make_console(struct fake_guest *guest, int fd)
{
	const struct cs_virtio_console_spec spec = { .log_fd = fd, .log_max = 65536 };
	struct cs_virtio *dev = NULL;

	assert_int_equal(cs_virtio_console_create(&spec, &dev, NULL), 0);
	return dev;
}

static struct cs_virtio *make_pmem(struct fake_guest *guest, int fd)
{
	struct cs_virtio *dev = NULL;

	assert_int_equal(cs_virtio_pmem_create(FAKE_SHARED_GPA, UINT64_C(2) << 20, &dev, NULL), 0);
	return dev;
}

static struct cs_virtio *make_vsock(struct fake_guest *guest, int fd)
{
	const struct cs_virtio_vsock_spec spec = { .guest_cid = 3, .listen_fd = -1 };
	struct cs_virtio *dev = NULL;

	assert_int_equal(cs_virtio_vsock_create(&spec, guest->loop, &dev, NULL), 0);
	return dev;
}

static struct cs_virtio *make_blk(struct fake_guest *guest, int fd)
{
	const struct cs_disk disk = { .fd = fd, .under_fd = -1, .bytes = DISK_BYTES };
	struct cs_virtio *dev = NULL;

	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	assert_int_equal(cs_virtio_blk_create(&disk, guest->loop, &dev, NULL), 0);
	return dev;
}

/* ---- a guest, and its clone */

struct world {
	struct fake_guest guest, clone;
	struct fake_queue q[CS_VIRTIO_QUEUES]; /* of the guest; of the clone after become_clone() */
	make_fn make;
	int fd, clone_fd; /* logs or disks */
	struct cs_stream *saved;
	char *told[2]; /* while it is saved: which bytes are said to be written */
};

static void open_guest(struct world *w, make_fn make)
{
	w->make = make;
	w->fd = memfd_create("guest", MFD_CLOEXEC);
	w->clone_fd = memfd_create("clone", MFD_CLOEXEC);
	fake_open(&w->guest);
	fake_plug(&w->guest, make(&w->guest, w->fd));
	fake_features(&w->guest, UINT64_MAX);
	for (unsigned i = 0; i < cs_virtio_mmio_queues(w->guest.mmio); i++)
		fake_queue(&w->guest, i, SIZE, &w->q[i]);
	fake_driver_ok(&w->guest);
	fake_settle(&w->guest);
	fake_open(&w->clone);
	fake_plug(&w->clone, make(&w->clone, w->clone_fd));
}

static void close_guest(struct world *w)
{
	cs_stream_free(w->saved);
	fake_close(&w->guest);
	fake_close(&w->clone);
	close(w->fd);
	close(w->clone_fd);
}

static void touch(void *arg, const void *host, size_t bytes)
{
	struct world *w = arg;
	const struct cs_seg *seg = w->guest.mem.ram.seg;

	for (unsigned i = 0; i < 2; i++) {
		const size_t at = (size_t)((const char *)host - (const char *)seg[i].host);

		if (at < seg[i].bytes)
			memset(w->told[i] + at, 1, bytes);
	}
}

/* Nothing was written that was not said: elsewhere memory is as before. */
static void check_touched(struct world *w, char *const before[2])
{
	for (unsigned i = 0; i < 2; i++) {
		const char *now = w->guest.mem.ram.seg[i].host;

		for (size_t at = 0; at < FAKE_SEG_BYTES; at++)
			assert_true(w->told[i][at] || now[at] == before[i][at]);
	}
}

/* As a save does it; only that what the child has is the same here. */
static void save(struct world *w)
{
	char *before[2];
	struct cs_err err = { 0 };

	cs_virtio_mmio_settle(w->guest.mmio);
	for (unsigned i = 0; i < 2; i++) {
		before[i] = malloc(FAKE_SEG_BYTES);
		memcpy(before[i], w->guest.mem.ram.seg[i].host, FAKE_SEG_BYTES);
		w->told[i] = calloc(1, FAKE_SEG_BYTES);
	}
	cs_virtio_mmio_part(w->guest.mmio, touch, w);
	check_touched(w, before);
	for (unsigned i = 0; i < 2; i++) {
		free(before[i]);
		free(w->told[i]);
	}
	w->saved = cs_stream_create();
	cs_virtio_mmio_state(w->guest.mmio, w->saved);
	assert_int_equal(cs_stream_end(w->saved, &err), 0);
}

static int load_bytes(struct fake_guest *guest, const void *data, size_t bytes, struct cs_err *err)
{
	struct cs_stream *s = cs_stream_open(data, bytes);
	int r;

	*err = (struct cs_err){ 0 };
	cs_virtio_mmio_state(guest->mmio, s);
	r = cs_stream_end(s, err);
	cs_stream_free(s);
	return r;
}

static void copy_memory(struct world *w)
{
	for (unsigned i = 0; i < 2; i++)
		memcpy(w->clone.mem.ram.seg[i].host, w->guest.mem.ram.seg[i].host, FAKE_SEG_BYTES);
}

static void become_clone(struct world *w)
{
	struct cs_err err;
	size_t bytes;
	const void *data;

	save(w);
	copy_memory(w);
	data = cs_stream_data(w->saved, &bytes);
	assert_int_equal(load_bytes(&w->clone, data, bytes, &err), 0);
	for (unsigned i = 0; i < CS_VIRTIO_QUEUES; i++)
		w->q[i].guest = &w->clone;
	w->clone.next_gpa = w->guest.next_gpa;
}

/* ---- going on */

static void test_goes_on(void **state)
{
	struct world w = { 0 };
	struct fake_buf buf = { .len = 64, .write = true };
	uint32_t id, len;

	open_guest(&w, make_rng);
	buf.gpa = fake_alloc(&w.guest, 64);
	for (unsigned i = 0; i < 3 * SIZE + 1; i++) {
		fake_send(&w.q[0], &buf, 1);
		fake_kick(&w.q[0]);
		fake_settle(&w.guest);
		assert_true(fake_take(&w.q[0], &id, &len));
	}
	become_clone(&w);
	/* All registers are as they were. */
	for (uint64_t at = 0; at < 0x100; at += 4)
		assert_int_equal(fake_read(&w.clone, at), fake_read(&w.guest, at));
	memset(fake_at(&w.clone, buf.gpa), 0, buf.len);
	fake_send(&w.q[0], &buf, 1);
	fake_kick(&w.q[0]);
	fake_settle(&w.clone);
	assert_true(fake_take(&w.q[0], &id, &len));
	assert_int_equal(len, 64);
	/* The clone's randomness is its own. */
	assert_memory_not_equal(fake_at(&w.clone, buf.gpa), fake_at(&w.guest, buf.gpa), 64);
	close_guest(&w);
}

/* Pages that the guest was asked for, and those it does without, are so in the clone. */
static void test_balloon(void **state)
{
	struct world w = { 0 };
	struct cs_balloon_info info;

	open_guest(&w, make_balloon);
	cs_virtio_balloon_set(w.guest.dev, FAKE_SEG_BYTES);
	fake_write(&w.guest, VIRTIO_MMIO_CONFIG + 4, 3);
	become_clone(&w);
	cs_virtio_balloon_info(w.clone.dev, &info);
	assert_true(info.driven);
	assert_int_equal(info.target_bytes, FAKE_SEG_BYTES);
	assert_int_equal(info.actual_bytes, 2 * FAKE_SEG_BYTES - 3 * 4096);
	close_guest(&w);
}

/* A notification that was not heard yet is heard by both. */
static void test_kick_is_not_lost(void **state)
{
	struct world w = { 0 };
	struct fake_buf buf = { .len = 64, .write = true };
	uint32_t id, len;

	open_guest(&w, make_rng);
	buf.gpa = fake_alloc(&w.guest, 64);
	fake_send(&w.q[0], &buf, 1);
	fake_kick(&w.q[0]);
	become_clone(&w);
	assert_false(fake_take(&w.q[0], &id, &len));
	fake_settle(&w.clone);
	assert_true(fake_take(&w.q[0], &id, &len));
	w.q[0].guest = &w.guest;
	w.q[0].used = 0;
	fake_settle(&w.guest);
	assert_true(fake_take(&w.q[0], &id, &len));
	close_guest(&w);
}

/* Nothing waits: nobody looks into the clone's memory. */
static void test_quiet_clone(void **state)
{
	struct world w = { 0 };
	struct cs_err err;
	size_t bytes;
	const void *data;

	open_guest(&w, make_console);
	save(&w);
	data = cs_stream_data(w.saved, &bytes);
	copy_memory(&w);
	assert_int_equal(load_bytes(&w.clone, data, bytes, &err), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(mprotect(w.clone.mem.ram.seg[i].host, FAKE_SEG_BYTES, PROT_NONE),
				 0);
	fake_settle(&w.clone);
	assert_int_equal(w.clone.irqs, 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(mprotect(w.clone.mem.ram.seg[i].host, FAKE_SEG_BYTES,
					  PROT_READ | PROT_WRITE),
				 0);
	close_guest(&w);
}

/* An interrupt that the guest has not acknowledged is raised again; one that it has, is not. */
static void test_interrupt_is_not_lost(void **state)
{
	for (int acknowledged = 0; acknowledged < 2; acknowledged++) {
		struct world w = { 0 };
		struct fake_buf buf = { .len = 64, .write = true };

		open_guest(&w, make_rng);
		buf.gpa = fake_alloc(&w.guest, 64);
		fake_send(&w.q[0], &buf, 1);
		fake_kick(&w.q[0]);
		fake_settle(&w.guest);
		assert_int_equal(fake_read(&w.guest, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
		if (acknowledged)
			fake_write(&w.guest, VIRTIO_MMIO_INTERRUPT_ACK, 1);
		become_clone(&w);
		fake_settle(&w.clone);
		assert_int_equal(w.clone.irqs, acknowledged ? 0 : 1);
		close_guest(&w);
	}
}

static void test_console(void **state)
{
	struct world w = { 0 };
	struct fake_buf buf = { .len = 5 };
	char text[16] = "";

	open_guest(&w, make_console);
	buf.gpa = fake_alloc(&w.guest, 64);
	memcpy(fake_at(&w.guest, buf.gpa), "hello", 5);
	fake_send(&w.q[1], &buf, 1);
	fake_kick(&w.q[1]);
	become_clone(&w);
	fake_settle(&w.clone);
	assert_int_equal(pread(w.clone_fd, text, sizeof(text), 0), 5);
	assert_string_equal(text, "hello");
	assert_int_equal(pread(w.fd, text, sizeof(text), 0), 0);
	close_guest(&w);
}

/* The guest of a clone hears that its connections are gone; the running one does not. */
static void test_vsock(void **state)
{
	struct world w = { 0 };
	struct fake_buf buf = { .len = sizeof(struct virtio_vsock_event), .write = true };
	uint32_t id, len;

	open_guest(&w, make_vsock);
	buf.gpa = fake_alloc(&w.guest, 64);
	memset(fake_at(&w.guest, buf.gpa), 0xff, buf.len);
	fake_send(&w.q[EVENT], &buf, 1);
	fake_kick(&w.q[EVENT]);
	fake_settle(&w.guest);
	become_clone(&w);
	assert_true(fake_take(&w.q[EVENT], &id, &len));
	assert_int_equal(len, buf.len);
	assert_int_equal(*(uint32_t *)fake_at(&w.clone, buf.gpa),
			 VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	fake_settle(&w.clone);
	assert_int_equal(w.clone.irqs, 1);
	assert_int_equal(w.guest.irqs, 0);
	fake_settle(&w.guest);
	assert_int_equal(w.guest.irqs, 0);
	close_guest(&w);
}

/* It had no buffer for that: it hears as soon as it has one, once. */
static void test_vsock_owes_event(void **state)
{
	struct world w = { 0 };
	struct fake_buf buf = { .len = sizeof(struct virtio_vsock_event), .write = true };
	uint32_t id, len;

	open_guest(&w, make_vsock);
	become_clone(&w);
	fake_settle(&w.clone);
	assert_int_equal(w.clone.irqs, 0);
	buf.gpa = fake_alloc(&w.clone, 64);
	for (int i = 0; i < 2; i++) {
		fake_send(&w.q[EVENT], &buf, 1);
		fake_kick(&w.q[EVENT]);
		fake_settle(&w.clone);
		assert_true(fake_take(&w.q[EVENT], &id, &len) == (i == 0));
	}
	close_guest(&w);
}

/* What was under way is finished before the picture is taken. */
static void test_blk_settles(void **state)
{
	const struct virtio_blk_outhdr head = { .type = VIRTIO_BLK_T_OUT, .sector = 8 };
	struct world w = { 0 };
	struct fake_buf buf[3] = { { .len = sizeof(head) },
				   { .len = 4096 },
				   { .len = 1, .write = true } };
	char data[4096];

	open_guest(&w, make_blk);
	for (unsigned i = 0; i < 3; i++)
		buf[i].gpa = fake_alloc(&w.guest, 4096);
	memcpy(fake_at(&w.guest, buf[0].gpa), &head, sizeof(head));
	memset(fake_at(&w.guest, buf[1].gpa), 'd', 4096);
	memset(fake_at(&w.guest, buf[2].gpa), 0xff, 1);
	fake_send(&w.q[0], buf, 3);
	w.guest.dev->ops->kick(w.guest.dev, 0); /* begun, and the loop does not run */
	become_clone(&w);
	assert_int_equal(fake_used_idx(&w.q[0]), 1);
	assert_int_equal(*(unsigned char *)fake_at(&w.clone, buf[2].gpa), VIRTIO_BLK_S_OK);
	assert_int_equal(pread(w.fd, data, sizeof(data), 8 * 512), sizeof(data));
	assert_int_equal(data[4095], 'd');
	fake_settle(&w.clone);
	assert_int_equal(w.clone.irqs, 1);
	fake_settle(&w.guest);
	close_guest(&w);
}

static void test_blk_other_disk(void **state)
{
	const struct cs_disk disk = { .under_fd = -1, .bytes = DISK_BYTES / 2 };
	struct world w = { 0 };
	struct fake_guest other;
	struct cs_virtio *dev = NULL;
	struct cs_disk half = disk;
	struct cs_err err;
	size_t bytes;
	const void *data;

	open_guest(&w, make_blk);
	save(&w);
	copy_memory(&w);
	data = cs_stream_data(w.saved, &bytes);
	fake_open(&other);
	half.fd = w.clone_fd;
	assert_int_equal(cs_virtio_blk_create(&half, other.loop, &dev, NULL), 0);
	fake_plug(&other, dev);
	assert_int_equal(load_bytes(&other, data, bytes, &err), -ESTALE);
	assert_non_null(strstr(err.text, "2048 sectors, this one has 1024"));
	fake_close(&other);
	close_guest(&w);
}

/* A device that its driver broke stays broken, until a reset. */
static void test_broken_device(void **state)
{
	struct world w = { 0 };
	struct fake_buf buf = { .len = 64, .write = true };
	uint32_t status;

	open_guest(&w, make_rng);
	fake_publish(&w.q[0], SIZE); /* no such descriptor */
	fake_kick(&w.q[0]);
	fake_settle(&w.guest);
	become_clone(&w);
	fake_settle(&w.clone);
	status = fake_read(&w.clone, VIRTIO_MMIO_STATUS);
	assert_true(status & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_false(w.clone.dev->running);
	assert_int_equal(w.clone.irqs, 1); /* it has not looked yet */
	fake_features(&w.clone, UINT64_MAX);
	fake_queue(&w.clone, 0, SIZE, &w.q[0]);
	fake_driver_ok(&w.clone);
	buf.gpa = fake_alloc(&w.clone, 64);
	fake_send(&w.q[0], &buf, 1);
	fake_kick(&w.q[0]);
	fake_settle(&w.clone);
	assert_int_equal(fake_used_idx(&w.q[0]), 1);
	close_guest(&w);
}

/* ---- states that are none */

/* Any bit of it turned: it is refused, or it is what some driver could have done, and then runs. A
 * new guest each time, since a machine is loaded once. */
static void flip_all(make_fn make)
{
	struct world w = { 0 };
	unsigned char *bad;
	unsigned refused = 0;
	size_t bytes;

	open_guest(&w, make);
	save(&w);
	cs_stream_data(w.saved, &bytes);
	bad = malloc(bytes);
	memcpy(bad, cs_stream_data(w.saved, &bytes), bytes);
	for (size_t bit = 0; bit < 8 * bytes; bit++) {
		struct cs_err err;
		int r;

		fake_close(&w.clone);
		fake_open(&w.clone);
		w.clone.settle = 4;
		fake_plug(&w.clone, make(&w.clone, w.clone_fd));
		copy_memory(&w);
		bad[bit / 8] ^= (unsigned char)(1u << bit % 8);
		r = load_bytes(&w.clone, bad, bytes, &err);
		bad[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_true(r == 0 || r == -EBADMSG || r == -ESTALE);
		refused += r < 0;
		if (r < 0)
			assert_string_not_equal(err.text, "");
		else
			fake_settle(&w.clone);
	}
	assert_true(refused > 0);
	free(bad);
	close_guest(&w);
}

static void test_bits(void **state)
{
	flip_all(make_rng);
	flip_all(make_balloon);
	flip_all(make_console);
	flip_all(make_pmem);
	flip_all(make_vsock);
	flip_all(make_blk);
}

static void test_truncated(void **state)
{
	struct world w = { 0 };
	struct cs_err err;
	const void *data;
	size_t bytes;

	open_guest(&w, make_vsock);
	save(&w);
	data = cs_stream_data(w.saved, &bytes);
	for (size_t n = 0; n < bytes; n++) {
		assert_int_equal(load_bytes(&w.clone, data, n, &err), -EBADMSG);
		assert_false(w.clone.dev->running && n < 100);
		fake_close(&w.clone);
		fake_open(&w.clone);
		fake_plug(&w.clone, w.make(&w.clone, w.clone_fd));
	}
	close_guest(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_goes_on),
		cmocka_unit_test(test_balloon),
		cmocka_unit_test(test_kick_is_not_lost),
		cmocka_unit_test(test_quiet_clone),
		cmocka_unit_test(test_interrupt_is_not_lost),
		cmocka_unit_test(test_console),
		cmocka_unit_test(test_vsock),
		cmocka_unit_test(test_vsock_owes_event),
		cmocka_unit_test(test_blk_settles),
		cmocka_unit_test(test_blk_other_disk),
		cmocka_unit_test(test_broken_device),
		cmocka_unit_test(test_bits),
		cmocka_unit_test(test_truncated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
