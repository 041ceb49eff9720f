/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a clone keeps of the connections. As a rule nothing: its guest is told that all are reset.
 * But to tell it, and to make one anew, costs the guest a long way through its kernel, for each
 * clone. So a connection that serve() had answered goes on in the clone, with another server at
 * its other end, when it is the only one and nothing is under way on it. */
#include "vmm/virtio-vsock-private.h"

#include <errno.h>
#include <sys/epoll.h>

/* The guest knows of it, and would wait for it. */
static bool is_real(const struct cs_vsock_conn *conn)
{
	return conn->asked && conn->state != CS_VSOCK_DRAINING;
}

/* Both ends know all that there is to know, but for credit, which is told again at any time. */
static bool is_quiet(const struct cs_vsock_conn *conn)
{
	return conn->state == CS_VSOCK_LIVE && !(conn->owed & ~(uint32_t)CS_VSOCK_OWES_CREDIT) &&
	       !conn->held && !conn->eof && !conn->gone && !conn->deaf && !conn->guest_done &&
	       !conn->guest_deaf;
}

struct cs_vsock_conn *cs_vsock_kept(struct cs_vsock *vsock)
{
	struct cs_vsock_conn *conn, *only = NULL;

	/* The guest has not heard yet that some have ended. */
	if (vsock->resets)
		return NULL;
	TAILQ_FOREACH(conn, &vsock->all, all)
	{
		if (!is_real(conn))
			continue;
		if (only || !conn->served || !is_quiet(conn))
			return NULL;
		only = conn;
	}
	return only;
}

static void describe(struct cs_vsock *vsock, struct cs_vsock_conn *conn, struct cs_stream *stream)
{
	/* The clone's host begins behind the ports that its guest has seen. */
	cs_stream_field(stream, vsock->next_port);
	cs_stream_field(stream, conn->host_port);
	cs_stream_field(stream, conn->guest_port);
	cs_stream_field(stream, conn->sent);
	cs_stream_field(stream, conn->peer_alloc);
	cs_stream_field(stream, conn->peer_forwarded);
	cs_stream_field(stream, conn->alloc);
	cs_stream_field(stream, conn->received);
	cs_stream_field(stream, conn->told);
}

static void go_on(struct cs_vsock *vsock, const struct cs_vsock_conn *was, struct cs_stream *stream)
{
	struct cs_vsock_conn *conn;
	int fd = vsock->resume ? vsock->resume(vsock->serve_arg, was->host_port) : -1;

	if (fd < 0) {
		cs_stream_refuse(stream, EBADMSG,
				 "a vsock connection to port %u, which is nobody's",
				 was->host_port);
		return;
	}
	conn = cs_vsock_conn_create(vsock, fd, CS_VSOCK_LIVE);
	if (!conn) {
		cs_stream_refuse(stream, ENOMEM, "out of memory");
		return;
	}
	conn->served = conn->by_guest = conn->asked = true;
	vsock->calls++;
	conn->sent = was->sent;
	conn->peer_alloc = was->peer_alloc;
	conn->peer_forwarded = was->peer_forwarded;
	conn->alloc = was->alloc;
	conn->received = conn->forwarded = was->received;
	conn->told = was->told;
	cs_vsock_conn_enter(conn, was->host_port, was->guest_port);
}

bool cs_vsock_kept_state(struct cs_vsock *vsock, struct cs_stream *stream)
{
	const bool saves = cs_stream_saves(stream);
	struct cs_vsock_conn was = { 0 }, *conn = saves ? cs_vsock_kept(vsock) : &was;
	bool kept = saves && conn;

	cs_stream_flag(stream, "vsock connection", &kept);
	if (!kept)
		return false;
	describe(vsock, conn, stream);
	if (saves)
		return true;

	cs_stream_require(stream, vsock->dev.running, "a vsock connection without a driver");
	cs_stream_require(stream, was.alloc >= CS_VSOCK_BUFFER_MIN && was.alloc <= CS_VSOCK_BUFFER,
			  "buffer of a vsock connection");
	if (cs_stream_good(stream))
		go_on(vsock, &was, stream);
	return true;
}
