/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/client.h"

#include <endian.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/client-private.h"
#include "vmm/control.h"

#define FIRST_RETRY_MS 10
#define LAST_RETRY_MS  200

/* ---- connecting */

/* "CONNECT", "OK" over (fd). -ENODATA: the guest does not serve the port. */
static int call(int fd, uint32_t port, const struct cs_patience *patience)
{
	char line[32];
	uint64_t host_port;
	int n = snprintf(line, sizeof(line), "CONNECT %u\n", port);
	int r;

	r = cs_client_send(fd, line, (size_t)n, patience);
	if (r == 0)
		r = cs_client_read_line(fd, line, sizeof(line), patience);
	/* A monitor whose guest has no driver so far hangs up before it reads our line. */
	if (r == -EPIPE || r == -ECONNRESET)
		return -ENODATA;
	if (r < 0)
		return r;
	if (strncmp(line, "OK ", 3) != 0 || cs_parse_u64(line + 3, UINT32_MAX, &host_port) < 0)
		return -EPROTO;
	return 0;
}

static int call_failed(int r, struct cs_err *err)
{
	switch (-r) {
	case ENODATA:
		return cs_fail(err, EAGAIN,
			       "running, but its agent does not serve (it may still boot: wait, or "
			       "look at its log)");
	case ETIMEDOUT:
		return cs_fail(err, ETIMEDOUT, "running, but it does not answer");
	case EINTR:
		return cs_fail(err, EINTR, "interrupted before its agent answered");
	default:
		return cs_fail_errno(err, -r, "cannot connect to its agent");
	}
}

int cs_client_call(int dirfd, uint32_t port, const struct cs_patience *patience, int *ret_fd,
		   struct cs_err *err)
{
	unsigned wait_ms = FIRST_RETRY_MS;
	bool refused = false;

	for (;;) {
		cs_auto(cs_fd_closep) int fd = -1;
		struct cs_patience nap = *patience;
		int r = cs_client_dial(dirfd, "vsock.sock", patience, &fd, err);

		if (r < 0)
			return r;
		r = call(fd, port, patience);
		if (r == 0) {
			int flags = fcntl(fd, F_GETFL);

			if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
				return call_failed(-errno, err);
			*ret_fd = cs_steal_fd(&fd);
			return 0;
		}
		refused = refused || r == -ENODATA;
		if (r == -ETIMEDOUT && refused)
			r = -ENODATA; /* the last try had no time left: the others tell more */
		if (r != -ENODATA || cs_client_now_ms() >= patience->deadline_ms)
			return call_failed(r, err);
		if (cs_client_now_ms() + wait_ms < nap.deadline_ms)
			nap.deadline_ms = cs_client_now_ms() + wait_ms;
		if (cs_client_wait(-1, 0, &nap) == -EINTR)
			return call_failed(-EINTR, err);
		wait_ms = wait_ms * 2 < LAST_RETRY_MS ? wait_ms * 2 : LAST_RETRY_MS;
	}
}

int cs_client_connect(int dirfd, uint32_t port, unsigned timeout_ms, int *ret_fd,
		      struct cs_err *err)
{
	const struct cs_patience patience = { cs_client_now_ms() + timeout_ms, -1 };

	return cs_client_call(dirfd, port, &patience, ret_fd, err);
}

/* ---- messages */

int cs_wire_send(int fd, enum cs_wire_type type, const void *payload, size_t bytes)
{
	struct cs_wire_head head = { htole32(type), htole32((uint32_t)bytes) };
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)payload, bytes } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	if (bytes > CS_WIRE_MAX)
		return -EMSGSIZE;
	while (iov[0].iov_len + iov[1].iov_len) {
		ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < 2 && n > 0; i++) {
			size_t part = (size_t)n < iov[i].iov_len ? (size_t)n : iov[i].iov_len;

			iov[i].iov_base = (char *)iov[i].iov_base + part;
			iov[i].iov_len -= part;
			n -= (ssize_t)part;
		}
	}
	return 0;
}

int cs_wire_receive(int fd, struct cs_wire_head *ret, void *buf)
{
	struct cs_wire_head head;
	int r = cs_read_full(fd, &head, sizeof(head));

	if (r < 0)
		return r;
	head.type = le32toh(head.type);
	head.bytes = le32toh(head.bytes);
	if (head.bytes > CS_WIRE_MAX)
		return -EPROTO;
	r = cs_read_full(fd, buf, head.bytes);
	if (r < 0)
		return r;
	*ret = head;
	return 0;
}

/* ---- ping */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* All of (bytes), however slowly the guest hands them out. */
static int receive_by(int fd, void *buf, size_t bytes, const struct cs_patience *patience)
{
	char *at = buf;

	while (bytes) {
		ssize_t n = recv(fd, at, bytes, MSG_DONTWAIT);
		int r;

		if (n == 0)
			return -ENODATA;
		if (n > 0) {
			at += n;
			bytes -= (size_t)n;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		r = cs_client_wait(fd, POLLIN, patience);
		if (r < 0)
			return r;
	}
	return 0;
}

static int ping_port(int fd, const struct cs_patience *patience, uint64_t *ret_us)
{
	struct {
		struct cs_wire_head head;
		uint64_t start_ns;
	} out = { { htole32(CS_WIRE_PING), htole32(sizeof(uint64_t)) }, now_ns() }, in;
	int r;

	r = cs_client_send(fd, &out, sizeof(out), patience);
	if (r == 0)
		r = receive_by(fd, &in, sizeof(in), patience);
	if (r < 0)
		return r;
	out.head.type = htole32(CS_WIRE_PONG);
	if (memcmp(&in, &out, sizeof(out)) != 0)
		return -EPROTO;
	*ret_us = (now_ns() - out.start_ns) / 1000;
	return 0;
}

int cs_client_ping(int dirfd, unsigned timeout_ms, uint64_t *ret_us, struct cs_err *err)
{
	const struct cs_patience patience = { cs_client_now_ms() + timeout_ms, -1 };
	const uint64_t start_ns = now_ns();
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	r = cs_control_call(dirfd, "ping", timeout_ms, NULL, NULL);
	if (r == 0) {
		*ret_us = (now_ns() - start_ns) / 1000;
		return 0;
	}
	if (r == -ETIMEDOUT)
		return call_failed(r, err);
	/* Not so far, or not by this monitor, not for this user, or not by this agent. */
	r = cs_client_call(dirfd, CS_WIRE_AGENT_PORT, &patience, &fd, err);
	if (r < 0)
		return r;
	r = ping_port(fd, &patience, ret_us);
	if (r == -ETIMEDOUT)
		return cs_fail(err, ETIMEDOUT, "its agent took the ping and does not answer");
	if (r < 0)
		return cs_fail_errno(err, -r, "ping of its agent failed");
	return 0;
}
