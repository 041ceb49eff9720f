#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# init makes a store, refuses what it cannot be, and takes an empty one back.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

fails 2 '--size' init --size
fails 2 'exclude each other' init --size 1G --path "$scratch/folder"
fails 1 "size 'much'" init --size much
fails 1 '256M at least' init --size 0
fails 1 '256M at least' init --size 1K
fails 1 "no store" init --undo
is "nothing was left behind" 'agent err out tmp ' \
	"$(find "$scratch" -mindepth 1 -printf '%f\n' | sort | tr '\n' ' ')"

cs init --path "$scratch/folder"
is "a store in a folder" 0 "$rc"
claim "says where" has "$out" "$store"
is "the store is a link to it" "$scratch/folder" "$(readlink "$store")"
fails 1 'there is a store already' init --path "$scratch/folder"
cs list
is "it can be used" 0 "$rc"
touch "$store/guests/mine"
fails 1 'still holds guests' init --undo
rm "$store/guests/mine"
printf '\nfsdax:/mnt/pmem\n' >"$store/media" # as template add --media leaves it
cs init --undo
is "taken back" 0 "$rc"
is "its contents are gone, the folder stays" '' "$(ls -A "$scratch/folder")"
is "the link is gone" '' "$(readlink "$store" || true)"

# A disk that is not mounted must not end in a second store.
cs init --path "$scratch/folder"
mv "$scratch/folder" "$scratch/elsewhere"
fails 1 'which is not there' list
fails 1 'a link to what is not there' init
fails 1 'a link to what is not there' init --path "$scratch/elsewhere"
mv "$scratch/elsewhere" "$scratch/folder"
cs list
is "with its disk it can be used again" 0 "$rc"
cs init --undo

echo mine >"$scratch/folder/mine"
fails 1 'holds other things' init --path "$scratch/folder"
is "what was there stays" mine "$(cat "$scratch/folder/mine")"
rm "$scratch/folder/mine"
echo '{"format": 7}' >"$scratch/folder/store.json"
fails 1 'newer clearstore' init --path "$scratch/folder"

if [ "$(id -u)" -ne 0 ] || [ ! -e /dev/loop-control ]; then
	echo "# the image was not tried: not root, or no loop devices"
	finish
fi

loops() {
	losetup -ln -O BACK-FILE | grep -c "^$scratch/" || true
}

cs init --size 512M
is "a store in an image" 0 "$rc"
claim "says how large" has "$out" '512.0 MiB'
claim "it is mounted" mountpoint -q "$store"
is "by one loop device" 1 "$(loops)"
claim "the image is sparse" [ "$(du -m "$store.img" | cut -f 1)" -lt 32 ]
fails 1 'there is a store already' init
umount "$store"
is "its device goes with the mount" 0 "$(loops)"
# As after a reboot, by several commands at once.
for ((i = 0; i < 6; i++)); do
	"$program" list >/dev/null &
done
wait
is "mounted again, once" 1 "$(grep -c " $store " /proc/self/mounts)"
is "still by one device" 1 "$(loops)"
cd "$store"
fails 1 'busy' init --undo
cd /
cs init --undo
is "taken back" 0 "$rc"
is "image, folder and device are gone" '0 0 0' \
	"$([ -e "$store" ] && echo 1 || echo 0) $([ -e "$store.img" ] && echo 1 || echo 0) $(loops)"

mkdir "$store"
touch "$store/mine"
fails 1 'in use and no store' init --size 512M
is "what was there stays" mine "$(ls "$store")"
rm -r "$store"

made_or_found() {
	[ "$rc" -eq 0 ] || has "$err" 'there is a store already'
}

# Killed at any moment: the next one succeeds, and nothing stays attached or mounted.
for ms in 0 5 10 20 30 40 60 80 120 200; do
	"$program" init --size 512M >/dev/null 2>&1 &
	pid=$!
	sleep "$(printf '0.%03d' "$ms")"
	kill -9 "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	cs init --size 512M
	claim "killed after $ms ms: the next init makes it or finds it" made_or_found
	cs list
	is "killed after $ms ms: it can be used" 0 "$rc"
	cs init --undo
	is "killed after $ms ms: nothing is left" '0 0' "$rc $(loops)"
done
finish
