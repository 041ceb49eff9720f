#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A web server that ran when its machine was saved serves in each clone, at once and as that clone: the
# page is the clone's own host name, its clock is the host's and has not gone back. SERVICE_CLONES (3)
# says how many, CLOCK_MS (1000) by how much a clock may be off: it is set when the guest hears of the
# time, which takes as long as its first steps. The page goes by vsock, through a program that takes it
# from nginx.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
need_debian
clones=${SERVICE_CLONES:-3}
clock_ms=${CLOCK_MS:-1000}

# In the guest: port 8080 of vsock to port 80, with the clock, and whether it has ever gone back.
bridge='import socket, time
serving = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
serving.bind((socket.VMADDR_CID_ANY, 8080))
serving.listen(16)
open("/run/bridge", "w").close()
wall, steady = time.time_ns(), time.monotonic_ns()
while True:
    client, _ = serving.accept()
    before, wall, old, steady = wall, time.time_ns(), steady, time.monotonic_ns()
    state = "forth" if wall >= before and steady >= old else "BACK"
    with client, socket.create_connection(("127.0.0.1", 80)) as server:
        server.sendall(client.recv(4096))
        page = b""
        while part := server.recv(4096):
            page += part
        client.sendall(page.rstrip() + f" {wall} {state}\n".encode())'
# shellcheck disable=SC2016 # the guest expands it
run='echo "server { listen 80; location = /name { default_type text/plain; alias /etc/hostname; } }" \
	>/etc/nginx/sites-enabled/default && nginx && { setsid python3 -c "$BRIDGE" & } &&
	until test -e /run/bridge; do sleep 0.2; done'

# On the host: fetch GUEST, which prints the page, and by how many ms the guest's clock is off at least.
fetch() {
	python3 - "$store/guests/$1/vsock.sock" "$clock_ms" <<'PYTHON'
import os, socket, sys, time
# By way of a descriptor: the path of a store may be longer than a socket's name may be.
folder = os.open(os.path.dirname(sys.argv[1]), os.O_PATH)
with socket.socket(socket.AF_UNIX) as guest:
    guest.settimeout(120)
    guest.connect(f"/proc/self/fd/{folder}/{os.path.basename(sys.argv[1])}")
    guest.sendall(b"CONNECT 8080\n")
    answer = guest.makefile("rb")
    if not answer.readline().startswith(b"OK "):
        sys.exit("nobody serves there")
    before = time.time_ns()
    guest.sendall(b"GET /name HTTP/1.0\r\n\r\n")
    head, page = answer.read().decode().split("\r\n\r\n")
    after = time.time_ns()
if " 200 " not in head.splitlines()[0]:
    sys.exit(head)
name, clock, state = page.split()
off = max(before - int(clock), int(clock) - after, 0)
print(name, state, "right" if off <= int(sys.argv[2]) * 1_000_000 else f"{off // 1_000_000} ms off")
PYTHON
}

claim "a guest is spawned" cs spawn debian --name "$me-first" --wait
claim "a web server is started in it" cs exec --env "BRIDGE=$bridge" "$me-first" -- sh -c "$run"
claim "it is saved" cs save "$me-first" "$me"
claim "$clones clones are spawned of it" cs spawn "$me" --name "$me" --count "$clones" --wait
for ((i = 1; i <= clones; i++)); do
	echo "$me-$i forth right" >>"$scratch/wanted"
done
[ "$clones" -gt 1 ] || sed -i "s/^$me-1 /$me /" "$scratch/wanted"
while read -r name _; do
	fetch "$name" >>"$scratch/got" 2>&1 || echo "$name does not serve" >>"$scratch/got"
done <"$scratch/wanted"
is "each serves its own name, by a clock that is right and never went back" '' \
	"$(diff "$scratch/wanted" "$scratch/got" | grep '^[<>]')"
mapfile -t guests < <(cut -d ' ' -f 1 "$scratch/wanted")
claim "they are removed" cs remove --force "$me-first" "${guests[@]}"
claim "and their template" cs template remove "$me"
finish
