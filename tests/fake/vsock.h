/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest and a host around a vsock device: the guest's driver that packs and unpacks packets, the
 * host's clients. Real transport and loop, in one thread; time stands still unless a test moves it.
 * A program that links this, and settle.c, wraps epoll_wait, clock_gettime, accept4,
 * cs_timer_create, cs_timer_set and cs_timer_free (-Wl,--wrap). */
#pragma once

#include <linux/virtio_vsock.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/fake/driver.h"

#define VS_CID      7u
#define VS_RX       64u
#define VS_RX_BYTES 3776u /* as Linux makes them: a page less the kernel's own part */
#define VS_TX       11u
#define VS_TX_BYTES 16384u
#define VS_ALLOC    (256u << 10) /* credit of the guest's end, unless a packet says otherwise */

struct vs {
	struct fake_guest guest;
	struct fake_queue rx, tx, event;
	uint64_t rx_gpa[VS_RX], tx_gpa[VS_TX];
	unsigned rx_next; /* buffer that comes back next */
	unsigned rx_held; /* taken and not given back, while (hold) */
	unsigned tx_used; /* slots in flight */
	unsigned tx_next; /* slot */
	bool hold;        /* keep rx buffers: the device runs out of them */
	unsigned kicks;   /* the device asked for */
	int listen_fd;
	char folder[32], path[64]; /* vsock.sock */
	int served;                /* what the next call to port 1 gets; -1: refused */
	int resumed;               /* what one to port 1 that was saved gets; -1: the same */
};

struct vs_packet { /* the guest's: what is 0 gets a sensible value, but for flags and fwd_cnt */
	uint32_t host_port, guest_port;
	uint16_t op, type;
	uint32_t flags, len, buf_alloc, fwd_cnt;
	uint64_t src_cid, dst_cid;
};

void vs_open(struct vs *vs);
void vs_close(struct vs *vs);
/* The guest boots its driver; again after a reset. */
void vs_start(struct vs *vs, uint64_t features);
/* Until nothing is left to do; fails when that never comes. */
void vs_settle(struct vs *vs);
/* Move the clock, and fire the timer if it is due. */
void vs_pass(struct vs *vs, uint64_t ms);
bool vs_timer_armed(void);
void vs_fail_accept(bool fail); /* as if descriptors had run out */
/* Let the socket, or the device's end of each client's, take as little as the kernel allows. */
void vs_shrink(int fd);
void vs_shrink_clients(bool shrink);

/* The guest's next packet, and where its payload is until the next call; false: none. */
bool vs_next(struct vs *vs, struct virtio_vsock_hdr *hdr, const char **ret_payload);
/* The next one is (op) for these ports (0: any); its head. */
struct virtio_vsock_hdr vs_expect(struct vs *vs, uint16_t op, uint32_t host_port,
				  uint32_t guest_port);
void vs_expect_none(struct vs *vs);
/* Give the buffers back that (hold) kept. */
void vs_release(struct vs *vs, unsigned n);

/* The guest sends (bytes) of (data) in a packet; false: no slot is free. */
bool vs_send(struct vs *vs, const struct vs_packet *packet, const void *data, uint32_t bytes);
/* Send it and settle. */
void vs_say(struct vs *vs, const struct vs_packet *packet, const void *data, uint32_t bytes);

/* A packet without payload; text as payload. */
void vs_op(struct vs *vs, uint16_t op, uint32_t host_port, uint32_t guest_port, uint32_t flags);
void vs_say_text(struct vs *vs, uint32_t host_port, uint32_t guest_port, const char *text);

int vs_client(struct vs *vs); /* a host client, non-blocking; nothing is said */
/* A whole connection from the host to (guest_port); its socket. */
int vs_connect(struct vs *vs, uint32_t guest_port, uint32_t *ret_host_port);
/* From (guest_port) to host port 1; the host's end. */
int vs_call(struct vs *vs, uint32_t guest_port);

/* All of (text) into the socket. */
void vs_put(int fd, const char *text);
/* The socket is at its end, or has exactly this to read. */
void vs_assert_eof(int fd);
void vs_assert_reads(int fd, const char *text);
void vs_assert_nothing(int fd);
