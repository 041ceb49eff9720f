/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the vsock device share (virtio 1.2, 5.10). Directions are named from the
 * guest's side nowhere: "to guest" is the rx queue, "from guest" the tx queue.
 *
 * virtio-vsock.c             queues, packets in and out, the device
 * virtio-vsock-connection.c  one connection: its host socket, credit, ends
 * virtio-vsock-host.c        how connections begin on the host: CONNECT lines, the guest's calls
 * virtio-vsock-state.c       the connection that a clone keeps
 */
#pragma once

#include <linux/virtio_vsock.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "vmm/guest/agent/wire.h"
#include "vmm/loop.h"
#include "vmm/virtio-devices.h"
#include "vmm/virtio.h"
#include "vmm/virtq.h"

/* Linux fills the whole rx ring with pages of its own at boot (virtio_vsock_rx_fill): 64 of them
 * cost each guest 256 KiB, the largest ring would cost 1 MiB. 64 buffers also hold just what a
 * Linux socket's default credit of 256 KiB lets us send at once. */
#define CS_VSOCK_RING 64u

#define CS_VSOCK_CONNECTIONS 1024u /* in all */
#define CS_VSOCK_CALLS       768u  /* begun by the guest: so that it can't lock the host out */
#define CS_VSOCK_BUCKETS     256u  /* a power of two */

/* Credit given to the guest for one connection, which is also the most we hold for a host socket
 * that does not take it: less for each when there are many, so that all of them together stay
 * under some 60 MiB. Powers of two. */
#define CS_VSOCK_BUFFER     (256u << 10)
#define CS_VSOCK_BUFFER_MIN (16u << 10)
#define CS_VSOCK_BUFFER_ALL (16u << 20)

#define CS_VSOCK_PACKET (64u << 10) /* most payload of a packet to the guest */

/* Resets that wait for rx buffers. Above the first mark the tx queue is not served (virtio 1.2,
 * 5.10.6.1.1); the rest is for connections that end meanwhile, so none is ever lost. */
#define CS_VSOCK_RESETS_HIGH 256u
#define CS_VSOCK_RESETS      (CS_VSOCK_RESETS_HIGH + CS_VSOCK_CONNECTIONS)

#define CS_VSOCK_BUDGET  128u   /* packets each way before others in the loop get their turn */
#define CS_VSOCK_WAIT_MS 30000u /* for a CONNECT line; for the guest's answer to a request */
#define CS_VSOCK_NAP_MS  1000u  /* before accept() is tried again when descriptors ran out */
#define CS_VSOCK_DAZE_MS 5000u  /* for a clone's guest to hear that its connections are reset */
#define CS_VSOCK_LINE    32u    /* room for "CONNECT 4294967295\n" */

enum cs_vsock_state {
	CS_VSOCK_GREETING, /* host client accepted, its CONNECT line is not complete */
	CS_VSOCK_ASKED,    /* REQUEST is on its way to the guest */
	CS_VSOCK_LIVE,
	CS_VSOCK_DRAINING, /* the guest has finished and forgotten it; we still hold its data */
};

enum cs_vsock_owed { /* packets a connection has to send, coalesced */
		     CS_VSOCK_OWES_REQUEST = 1,
		     CS_VSOCK_OWES_RESPONSE = 2,
		     CS_VSOCK_OWES_SHUTDOWN = 4,
		     CS_VSOCK_OWES_CREDIT = 8,
};

struct cs_vsock;

struct cs_vsock_conn {
	TAILQ_ENTRY(cs_vsock_conn) all, ready, waiting;
	LIST_ENTRY(cs_vsock_conn) bucket;
	struct cs_vsock *vsock;
	int fd;
	struct cs_watch *watch;
	uint32_t watched; /* events it is set to */
	enum cs_vsock_state state;
	uint32_t host_port, guest_port;
	uint32_t owed;
	bool by_guest;   /* the guest began it */
	bool served;     /* serve() answered it */
	bool asked;      /* the guest has seen our REQUEST, or began it: it must hear of the end */
	bool is_known;   /* in a bucket */
	bool is_ready;   /* in the ready list */
	bool is_waiting; /* in the waiting list, until (deadline) */
	uint64_t deadline_ms;

	/* To the guest. */
	bool readable; /* the host socket may have data */
	bool eof;      /* nothing more will be read from it */
	bool gone;     /* its other end is closed: no watch, what is still in it can be read */
	uint32_t sent; /* bytes, modulo 2^32, as all counts of the protocol */
	uint32_t peer_alloc, peer_forwarded; /* what the guest last said of itself */

	/* From the guest. */
	bool deaf;                                 /* the host socket takes nothing any more */
	bool guest_done;                           /* the guest will send nothing more */
	bool guest_deaf;                           /* the guest will take nothing more */
	uint32_t alloc, received, forwarded, told; /* told: the (forwarded) the guest knows of */
	uint8_t *buffer;                           /* ring of (alloc); NULL: nothing is held */
	uint32_t first, held;

	char line[CS_VSOCK_LINE];
	unsigned line_bytes;
};

TAILQ_HEAD(cs_vsock_list, cs_vsock_conn);
LIST_HEAD(cs_vsock_bucket, cs_vsock_conn);

struct cs_vsock_reset { /* the packet's source and destination */
	uint32_t cid, host_port, guest_port;
	uint16_t type;
};

struct cs_vsock {
	struct cs_virtio dev; /* first */
	struct cs_loop *loop;
	uint32_t guest_cid;
	int listen_fd;
	struct cs_watch *listening; /* NULL: no listen_fd */
	bool napping;               /* no accept(): out of descriptors or memory, or dazed: */
	bool dazed;                 /* until the guest has heard that its connections are reset */
	uint64_t nap_end_ms;
	char *path;
	int (*serve)(void *arg, uint32_t port);
	int (*resume)(void *arg, uint32_t port);
	void (*wanted)(void *arg);
	void *serve_arg;
	struct cs_timer *timer;
	bool tx_paused;  /* too many resets wait */
	bool rx_silent;  /* the driver was asked not to notify us of rx buffers */
	bool event_owed; /* the guest is to hear that its connections are gone, and had no buffer */
	uint32_t next_port;
	unsigned connections, calls;
	struct cs_vsock_list all, ready, waiting;
	struct cs_vsock_bucket bucket[CS_VSOCK_BUCKETS];
	struct cs_vsock_reset reset[CS_VSOCK_RESETS];
	unsigned reset_first, resets;
	struct cs_chain chain; /* scratch: 4 KiB, too big for each caller's stack */
};

/* ---- virtio-vsock.c */

/* Send what is ready, as far as rx buffers and budget go. Frees connections. */
void cs_vsock_pump(struct cs_vsock *vsock);

/* Owe the guest an RST. Never lost: see CS_VSOCK_RESETS. */
void cs_vsock_reset(struct cs_vsock *vsock, const struct cs_vsock_reset *reset);

/* Fill the first bytes of (chain)'s writable part with a packet's head. */
size_t cs_vsock_put(struct cs_vsock_conn *conn, const struct cs_chain *chain,
		    struct virtio_vsock_hdr *hdr);

/* ---- virtio-vsock-state.c */

/* The connection that goes on in a clone; NULL: none, the guest hears that all are reset. */
struct cs_vsock_conn *cs_vsock_kept(struct cs_vsock *vsock);

/* Save or load it. True: there is one. */
bool cs_vsock_kept_state(struct cs_vsock *vsock, struct cs_stream *stream);

/* ---- virtio-vsock-connection.c */

/* A connection around (fd), which becomes its own, in the list of all; NULL: no memory or too many
 * of them, (fd) is closed. */
struct cs_vsock_conn *cs_vsock_conn_create(struct cs_vsock *vsock, int fd,
					   enum cs_vsock_state state);

/* Its ports are known: packets find it. */
void cs_vsock_conn_enter(struct cs_vsock_conn *conn, uint32_t host_port, uint32_t guest_port);
struct cs_vsock_conn *cs_vsock_conn_find(struct cs_vsock *vsock, uint32_t host_port,
					 uint32_t guest_port);

/* End it, both sides, now. (tell): the guest gets an RST when it knows of it. */
void cs_vsock_conn_drop(struct cs_vsock_conn *conn, bool tell);

/* Put it in the ready list if there is something it can send. */
void cs_vsock_conn_ready(struct cs_vsock_conn *conn);

/* Have the loop watch just what can be served now. False: no memory, it is dropped. */
bool cs_vsock_conn_watch(struct cs_vsock_conn *conn);

/* Write its next packet into (chain): the packet's bytes, or 0: there was nothing to send after
 * all, and (conn) may be gone. */
size_t cs_vsock_conn_fill(struct cs_vsock_conn *conn, const struct cs_chain *chain);

/* A packet of the guest for it, (hdr) a copy; (chain)'s readable part holds head and payload. May
 * drop it. */
void cs_vsock_conn_take(struct cs_vsock_conn *conn, const struct virtio_vsock_hdr *hdr,
			const struct cs_chain *chain);

/* ---- virtio-vsock-host.c */

int cs_vsock_host_open(struct cs_vsock *vsock, struct cs_err *err);
void cs_vsock_host_close(struct cs_vsock *vsock);

/* The guest of a clone is about to hear that all its connections are reset, and would reset one
 * that came before: clients wait until it calls a port that is served, or for CS_VSOCK_DAZE_MS. */
void cs_vsock_host_daze(struct cs_vsock *vsock);

/* A slot or a descriptor has become free. */
void cs_vsock_host_wake(struct cs_vsock *vsock);

/* The socket of a greeting client is readable. May drop it. */
void cs_vsock_host_greet(struct cs_vsock_conn *conn);

/* The guest accepted: tell the client. False: it is dropped. */
bool cs_vsock_host_accepted(struct cs_vsock_conn *conn);

/* REQUEST of the guest. */
void cs_vsock_host_called(struct cs_vsock *vsock, const struct virtio_vsock_hdr *hdr);

/* (conn) waits for something that must come within CS_VSOCK_WAIT_MS, from now; or no longer. */
void cs_vsock_host_wait(struct cs_vsock_conn *conn, bool wait);
