/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtio-vsock-private.h"

#include <endian.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* ---- the table */

static struct cs_vsock_bucket *bucket_of(struct cs_vsock *vsock, uint32_t host_port,
					 uint32_t guest_port)
{
	/* Fibonacci hashing; a guest that picks its ports to collide slows itself only. */
	uint64_t key = ((uint64_t)host_port << 32 | guest_port) * UINT64_C(0x9e3779b97f4a7c15);

	return &vsock->bucket[(key >> 32) % CS_VSOCK_BUCKETS];
}

struct cs_vsock_conn *cs_vsock_conn_find(struct cs_vsock *vsock, uint32_t host_port,
					 uint32_t guest_port)
{
	struct cs_vsock_conn *conn;

	LIST_FOREACH(conn, bucket_of(vsock, host_port, guest_port), bucket)
	if (conn->host_port == host_port && conn->guest_port == guest_port)
		return conn;
	return NULL;
}

void cs_vsock_conn_enter(struct cs_vsock_conn *conn, uint32_t host_port, uint32_t guest_port)
{
	conn->host_port = host_port;
	conn->guest_port = guest_port;
	conn->is_known = true;
	LIST_INSERT_HEAD(bucket_of(conn->vsock, host_port, guest_port), conn, bucket);
}

/* The guest's side is over: no packet finds it, none is sent for it. */
static void leave(struct cs_vsock_conn *conn, bool tell)
{
	const struct cs_vsock_reset reset = {
		.cid = CS_WIRE_HOST_CID,
		.host_port = conn->host_port,
		.guest_port = conn->guest_port,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
	};

	if (conn->is_known) {
		LIST_REMOVE(conn, bucket);
		if (tell && conn->asked)
			cs_vsock_reset(conn->vsock, &reset);
	}
	if (conn->is_ready)
		TAILQ_REMOVE(&conn->vsock->ready, conn, ready);
	conn->is_known = conn->is_ready = false;
	conn->owed = 0;
}

static void host_event(void *arg, uint32_t events);

struct cs_vsock_conn *cs_vsock_conn_create(struct cs_vsock *vsock, int fd,
					   enum cs_vsock_state state)
{
	cs_auto(cs_fd_closep) int owned = fd;
	cs_auto(cs_mem_freep) struct cs_vsock_conn *conn = NULL;
	uint32_t share = CS_VSOCK_BUFFER;

	if (vsock->connections >= CS_VSOCK_CONNECTIONS)
		return NULL;
	conn = calloc(1, sizeof(*conn));
	if (!conn)
		return NULL;

	while (share > CS_VSOCK_BUFFER_MIN &&
	       share > CS_VSOCK_BUFFER_ALL / (vsock->connections + 1))
		share /= 2;
	conn->vsock = vsock;
	conn->state = state;
	conn->alloc = share;
	conn->watched = EPOLLIN;
	if (cs_loop_add(vsock->loop, fd, conn->watched, host_event, conn, &conn->watch) < 0)
		return NULL;
	conn->fd = cs_steal_fd(&owned);
	TAILQ_INSERT_TAIL(&vsock->all, conn, all);
	vsock->connections++;
	return cs_steal(conn);
}

void cs_vsock_conn_drop(struct cs_vsock_conn *conn, bool tell)
{
	struct cs_vsock *vsock = conn->vsock;

	leave(conn, tell);
	cs_vsock_host_wait(conn, false);
	TAILQ_REMOVE(&vsock->all, conn, all);
	cs_watch_free(conn->watch);
	cs_fd_closep(&conn->fd);
	vsock->connections--;
	if (conn->by_guest)
		vsock->calls--;
	free(conn->buffer);
	free(conn);
	cs_vsock_host_wake(vsock);
}

bool cs_vsock_conn_watch(struct cs_vsock_conn *conn)
{
	uint32_t events = 0;

	if (conn->gone)
		return true;
	if (conn->state == CS_VSOCK_GREETING ||
	    (conn->state == CS_VSOCK_LIVE && !conn->readable && !conn->eof))
		events |= EPOLLIN;
	if (conn->held)
		events |= EPOLLOUT;
	if (events == conn->watched)
		return true;
	if (cs_watch_set(conn->watch, events) < 0) {
		cs_vsock_conn_drop(conn, true);
		return false;
	}
	conn->watched = events;
	return true;
}

/* ---- to the guest */

/* How much the guest can still take (5.10.6.3). It may say nonsense: then it gets nothing. */
static uint32_t credit(const struct cs_vsock_conn *conn)
{
	uint32_t flying = conn->sent - conn->peer_forwarded;

	return flying < conn->peer_alloc ? conn->peer_alloc - flying : 0;
}

static bool can_read(const struct cs_vsock_conn *conn)
{
	return conn->state == CS_VSOCK_LIVE && conn->readable && !conn->eof && credit(conn);
}

void cs_vsock_conn_ready(struct cs_vsock_conn *conn)
{
	if (conn->is_ready || (!conn->owed && !can_read(conn)))
		return;
	conn->is_ready = true;
	TAILQ_INSERT_TAIL(&conn->vsock->ready, conn, ready);
}

/* The host socket takes nothing any more: what we hold for it is lost, as in a pipe without
 * reader. */
static void deafen(struct cs_vsock_conn *conn)
{
	conn->deaf = true;
	conn->forwarded += conn->held;
	conn->held = 0;
	free(conn->buffer);
	conn->buffer = NULL;
	conn->owed |= CS_VSOCK_OWES_SHUTDOWN;
}

/* The host socket into the guest's buffer. 0: there was nothing. */
static size_t fill_data(struct cs_vsock_conn *conn, const struct cs_chain *chain)
{
	struct iovec iov[CS_CHAIN_MAX];
	struct msghdr msg = { .msg_iov = iov };
	struct virtio_vsock_hdr hdr = { .op = htole16(VIRTIO_VSOCK_OP_RW) };
	uint64_t room = chain->writable_bytes - sizeof(hdr);
	ssize_t n;

	if (room > CS_VSOCK_PACKET)
		room = CS_VSOCK_PACKET;
	if (room > credit(conn))
		room = credit(conn);
	msg.msg_iovlen =
		cs_iov_slice(chain->iov + chain->readable, chain->writable, sizeof(hdr), room, iov);
	n = recvmsg(conn->fd, &msg, MSG_DONTWAIT);
	if (n > 0) {
		/* A short read has emptied it; if not, the loop says so. */
		conn->readable = (size_t)n == room || conn->gone;
		conn->sent += (uint32_t)n;
		hdr.len = htole32((uint32_t)n);
		return cs_vsock_put(conn, chain, &hdr) + (size_t)n;
	}

	conn->readable = false;
	if (n < 0 && (errno == EAGAIN || errno == EINTR) && !conn->gone)
		return 0;
	if (n < 0 && !conn->deaf)
		deafen(conn);
	conn->eof = true;
	conn->owed |= CS_VSOCK_OWES_SHUTDOWN;
	return 0;
}

static size_t fill_control(struct cs_vsock_conn *conn, const struct cs_chain *chain,
			   enum cs_vsock_owed owed, uint16_t op)
{
	struct virtio_vsock_hdr hdr = { .op = htole16(op) };

	conn->owed &= ~(uint32_t)owed;
	if (op == VIRTIO_VSOCK_OP_REQUEST)
		conn->asked = true;
	if (op == VIRTIO_VSOCK_OP_SHUTDOWN)
		hdr.flags = htole32((conn->eof ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0) |
				    (conn->deaf ? VIRTIO_VSOCK_SHUTDOWN_RCV : 0));
	return cs_vsock_put(conn, chain, &hdr);
}

size_t cs_vsock_conn_fill(struct cs_vsock_conn *conn, const struct cs_chain *chain)
{
	size_t bytes = 0;

	if (conn->owed & CS_VSOCK_OWES_REQUEST)
		bytes = fill_control(conn, chain, CS_VSOCK_OWES_REQUEST, VIRTIO_VSOCK_OP_REQUEST);
	else if (conn->owed & CS_VSOCK_OWES_RESPONSE)
		bytes = fill_control(conn, chain, CS_VSOCK_OWES_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE);
	else if (can_read(conn))
		bytes = fill_data(conn, chain);

	/* Behind all data; and the end when both directions are over. The guest's RST in answer
	 * finds nobody, which is fine, and so does what it sent before it knew. */
	if (!bytes && (conn->owed & CS_VSOCK_OWES_SHUTDOWN)) {
		bytes = fill_control(conn, chain, CS_VSOCK_OWES_SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN);
		if (conn->eof && conn->deaf) {
			cs_vsock_conn_drop(conn, false);
			return bytes;
		}
	}
	if (!bytes && (conn->owed & CS_VSOCK_OWES_CREDIT))
		bytes = fill_control(conn, chain, CS_VSOCK_OWES_CREDIT,
				     VIRTIO_VSOCK_OP_CREDIT_UPDATE);

	cs_vsock_conn_ready(conn);
	if (!conn->is_ready)
		cs_vsock_conn_watch(conn);
	return bytes;
}

/* ---- from the guest */

/* Tell the guest of room when, for all it knows, little is left: a whole quarter of a buffer, or
 * none, so that a stream of data costs few packets back. */
static void owe_credit(struct cs_vsock_conn *conn)
{
	uint32_t known = conn->alloc - (conn->received - conn->told);

	if (conn->forwarded != conn->told && known <= conn->alloc / 4 && !conn->guest_done)
		conn->owed |= CS_VSOCK_OWES_CREDIT;
}

/* Nothing of the guest's data is left here. */
static void drained(struct cs_vsock_conn *conn)
{
	free(conn->buffer);
	conn->buffer = NULL;
	conn->first = 0;
	if (conn->guest_done && !conn->deaf)
		shutdown(conn->fd, SHUT_WR);
}

/* What we hold to the host socket, as far as it takes it. False: (conn) is gone. */
static bool flush(struct cs_vsock_conn *conn)
{
	while (conn->held && !conn->deaf) {
		uint32_t run = conn->alloc - conn->first < conn->held ? conn->alloc - conn->first
								      : conn->held;
		struct iovec iov[2] = {
			{ conn->buffer + conn->first, run },
			{ conn->buffer, conn->held - run },
		};
		const struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
		ssize_t n = sendmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0) {
			deafen(conn);
			break;
		}
		conn->first = (conn->first + (uint32_t)n) % conn->alloc;
		conn->held -= (uint32_t)n;
		conn->forwarded += (uint32_t)n;
	}
	if (!conn->held) {
		drained(conn);
		if (conn->state == CS_VSOCK_DRAINING) {
			cs_vsock_conn_drop(conn, false);
			return false;
		}
	}
	owe_credit(conn);
	return cs_vsock_conn_watch(conn);
}

/* Keep (bytes) from (offset) of the packet until the host socket takes them. */
static bool hold(struct cs_vsock_conn *conn, const struct cs_chain *chain, size_t offset,
		 uint32_t bytes)
{
	uint32_t at, run;

	if (!conn->buffer) {
		conn->buffer = malloc(conn->alloc);
		if (!conn->buffer)
			return false;
		conn->first = 0;
	}
	at = (conn->first + conn->held) % conn->alloc;
	run = conn->alloc - at < bytes ? conn->alloc - at : bytes;
	cs_chain_read(chain, offset, conn->buffer + at, run);
	cs_chain_read(chain, offset + run, conn->buffer, bytes - run);
	conn->held += bytes;
	return true;
}

/* OP_RW. False: (conn) is gone. */
static bool take_data(struct cs_vsock_conn *conn, uint32_t bytes, const struct cs_chain *chain)
{
	const size_t head = sizeof(struct virtio_vsock_hdr);
	struct iovec iov[CS_CHAIN_MAX];
	struct msghdr msg = { .msg_iov = iov };
	ssize_t n = 0;

	/* More than the packet has, than it was allowed, or after its end. */
	if (conn->state != CS_VSOCK_LIVE || bytes > chain->readable_bytes - head ||
	    bytes > conn->alloc - conn->held || conn->guest_done) {
		cs_vsock_conn_drop(conn, true);
		return false;
	}
	conn->received += bytes;
	if (!conn->held && !conn->deaf && bytes) {
		msg.msg_iovlen = cs_iov_slice(chain->iov, chain->readable, head, bytes, iov);
		n = sendmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			deafen(conn);
		if (n < 0)
			n = 0;
	}
	if (conn->deaf)
		n = bytes;
	conn->forwarded += (uint32_t)n;
	if ((uint32_t)n < bytes && !hold(conn, chain, head + (size_t)n, bytes - (uint32_t)n)) {
		cs_vsock_conn_drop(conn, true);
		return false;
	}
	owe_credit(conn);
	return true;
}

/* The guest is done with it altogether. What it sent before still goes to the host. */
static void finish(struct cs_vsock_conn *conn, bool tell)
{
	if (!conn->held) {
		cs_vsock_conn_drop(conn, tell);
		return;
	}
	leave(conn, tell);
	conn->state = CS_VSOCK_DRAINING;
	conn->guest_done = conn->eof = true;
	conn->readable = false;
	cs_vsock_conn_watch(conn);
}

/* OP_SHUTDOWN. False: it is out of the guest's sight, or gone. */
static bool take_shutdown(struct cs_vsock_conn *conn, uint32_t flags)
{
	if (flags & VIRTIO_VSOCK_SHUTDOWN_SEND && !conn->guest_done) {
		conn->guest_done = true;
		if (!conn->held && !conn->deaf)
			shutdown(conn->fd, SHUT_WR);
	}
	if (flags & VIRTIO_VSOCK_SHUTDOWN_RCV && !conn->guest_deaf) {
		conn->guest_deaf = true;
		conn->eof = true;
		conn->readable = false;
		shutdown(conn->fd, SHUT_RD);
	}
	if (conn->guest_done && conn->guest_deaf) {
		/* The RST is the answer it waits for before it reuses the port (5.10.6.6.1). */
		finish(conn, true);
		return false;
	}
	return true;
}

/* OP_RESPONSE. False: (conn) is gone. */
static bool take_response(struct cs_vsock_conn *conn)
{
	if (conn->state != CS_VSOCK_ASKED || !conn->asked) {
		cs_vsock_conn_drop(conn, true);
		return false;
	}
	return cs_vsock_host_accepted(conn);
}

void cs_vsock_conn_take(struct cs_vsock_conn *conn, const struct virtio_vsock_hdr *hdr,
			const struct cs_chain *chain)
{
	bool alive = true;

	conn->peer_alloc = le32toh(hdr->buf_alloc);
	conn->peer_forwarded = le32toh(hdr->fwd_cnt);

	switch (le16toh(hdr->op)) {
	case VIRTIO_VSOCK_OP_RW:
		alive = take_data(conn, le32toh(hdr->len), chain);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		if (conn->state == CS_VSOCK_LIVE)
			conn->owed |= CS_VSOCK_OWES_CREDIT;
		break;
	case VIRTIO_VSOCK_OP_RESPONSE:
		alive = take_response(conn);
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		alive = take_shutdown(conn, le32toh(hdr->flags));
		break;
	case VIRTIO_VSOCK_OP_RST:
		finish(conn, false);
		return;
	default: /* a second REQUEST, or an unknown one */
		cs_vsock_conn_drop(conn, true);
		return;
	}
	if (alive && cs_vsock_conn_watch(conn))
		cs_vsock_conn_ready(conn);
}

/* ---- the host's side */

/* Nobody is at the other end of the host socket, though there may still be data in it. False:
 * (conn) is gone. */
static bool host_left(struct cs_vsock_conn *conn)
{
	if (conn->state != CS_VSOCK_LIVE) {
		cs_vsock_conn_drop(conn, true);
		return false;
	}
	/* HUP can't be masked: without this the loop would spin until the guest has room for the
	 * rest. */
	conn->watch = cs_watch_free(conn->watch);
	conn->gone = true;
	conn->readable = !conn->eof;
	deafen(conn);
	return true;
}

static void host_event(void *arg, uint32_t events)
{
	struct cs_vsock_conn *conn = arg;
	struct cs_vsock *vsock = conn->vsock;
	bool alive = true;

	if (events & (EPOLLHUP | EPOLLERR)) {
		alive = host_left(conn);
	} else if (conn->state == CS_VSOCK_GREETING) {
		cs_vsock_host_greet(conn);
		alive = false;
	} else {
		if (events & EPOLLOUT)
			alive = flush(conn);
		if (alive && (events & EPOLLIN) && !conn->eof)
			conn->readable = true;
	}
	if (alive) {
		cs_vsock_conn_ready(conn);
		if (!conn->is_ready) /* no credit: the loop would say again and again */
			cs_vsock_conn_watch(conn);
	}
	cs_vsock_pump(vsock);
}
