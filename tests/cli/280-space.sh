#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# df, store check, store grow, store trim: the sums add up to what the file system says, what is wrong
# is said, the image grows and shrinks, and a copy of it opens elsewhere.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

fake_kernel "$kernel" 6.12.1-clearstore 1
fake_root "$scratch/root"
head -c 30M /dev/urandom >"$scratch/root/large"

# Of the report: what python says of `rows`.
of() {
	python3 -c 'import json, sys
rows = json.load(sys.stdin)
one = {(r.get("kind"), r.get("name")): r for r in rows}
kind = {r.get("kind"): r for r in rows}
print(eval(sys.argv[1]))' "$1" <"$scratch/out"
}

mib() {
	stat -c %b "$1" | awk '{ print int($1 / 2048) }'
}

folder_store
cs template add web --from "$scratch/root"
cs df --json
if [ "$rc" -eq 0 ]; then
	claim "in a folder: what others have on the disk is told apart" \
		[ "$(of 'kind["rest"]["exclusive_bytes"] > 0 and "others" in kind["rest"]["name"]')" = True ]
else
	claim "in a folder whose file system says nothing" has "$err" 'does not say where'
fi
cs store check
is "check: all is well" 0 "$rc"
fails 1 'but a folder' store grow --size 4G
if [ "$(stat -f -c %T "$scratch")" != btrfs ]; then
	fails 1 'is no Btrfs: the limit' store quotas
fi
fails 2 '--size: not given' store grow
fails 1 "size 'much'" store grow --size much
fails 2 'Too many arguments' df all
fails 2 'Too many arguments' store check all

# What is wrong is said; all of it.
guest() {
	mkdir -p "$store/guests/$1"
	cat >"$store/guests/$1/card.json" <<-END
		{"format": 1, "guest": "$1", "template": "$2", "version": "1", "ram_bytes": 134217728,
		 "disk_bytes": 4096, "vcpus": 1, "persist": $3, "run_init": false, "resume": false,
		 "remove_on_exit": false, "created": 1700000000, "started": 0, "command": null, "env": null,
		 "append": null, "boot": "$(cat /proc/sys/kernel/random/boot_id)",
		 "monitor": {"pid": 0, "start_ticks": 0}, "owner": {"pid": 0, "start_ticks": 0}}
	END
}
guest fine web false
cs store check
is "check: a guest, and all is well" 0 "$rc"
guest lost gone false
guest diskless web true
mkdir "$store/guests/odd" "$store/templates/.half.new" "$store/templates/empty"
echo '{' >"$store/guests/odd/card.json"
ln -s 9 "$store/templates/empty/active"
cs store check --json
is "check: status" 1 "$rc"
claim "in one line" has "$err" '4 things are wrong'
is "a guest without its template" "template 'gone': not there (see: clearstore template list)" "$(of 'one["guest", "lost"]["words"]')"
claim "a guest without its disk" has "$(of 'one["guest", "diskless"]["words"]')" 'disk is not there'
claim "a guest without its card" has "$(of 'one["guest", "odd"]["words"]')" 'cannot be read'
claim "a template without its active version" has "$(of 'one["template", "empty"]["words"]')" 'active version'
claim "what was swept" has "$(of 'one["swept", ".half.new"]["words"]')" half-made
echo '{"format": 2}' >"$store/store.json"
fails 1 'made by a newer clearstore (format 2, this one knows 1)' store check
chmod -R u+w "$scratch/folder"
rm -rf "$store" "$scratch/folder"

image_store 3G
cs template add web --from "$scratch/root"
echo more >"$scratch/root/etc/zz"
cs template update web --from "$scratch/root" --activate
guest g web false
head -c 5M /dev/urandom >"$store/guests/g/disk"
mkdir "$store/guests/g/parked"
head -c 3M /dev/urandom >"$store/guests/g/parked/memory"
sync -f "$store"
cs df --json
is "df: status" 0 "$rc"
is "the sums add up to what the file system says" True "$(of \
	'sum(r["exclusive_bytes"] for r in rows if r["kind"] in ("version", "guest", "between", "metadata", "rest")) == kind["used"]["exclusive_bytes"]')"
is "little is nobody's" True "$(of 'kind["rest"]["exclusive_bytes"] < 2 << 20')"
is "what versions share is counted once" True "$(of '30 << 20 < kind["between"]["exclusive_bytes"] < 45 << 20')"
is "and is their template's alone" True "$(of 'one["template", "web"]["exclusive_bytes"] > 30 << 20')"
is "a version has little alone" True "$(of 'one["version", "web@2"]["exclusive_bytes"] < 1 << 20')"
is "a guest has what it has, parked too" "$((8 << 20))" "$(of 'one["guest", "g"]["exclusive_bytes"] // 1048576 * 1048576')"
cs df
claim "for people, too" grep -qE '^version +web@2 ' <<<"$out"
rm -r "$store/guests/g"

# It grows while it is in use, and goes on where a growth was killed.
fails 1 'can only grow' store grow --size 1G
cs store grow --size 4G
is "grow: status and words" "0 store at $store: a sparse Btrfs image of 4.0 GiB" "$rc $out"
claim "the file system has the room" [ "$(df --output=size -B 1M "$store" | tail -1)" -gt 4000 ]
truncate -s 5G "$store.img"
cs store check --json
is "then something is wrong" 1 "$rc"
claim "a growth that was interrupted is seen" has "$(of 'kind["image"]["words"]')" interrupted
cs store grow --size 5G
cs store check
is "and finished by the same again" 0 "$rc"

# A bound for guests, where the kernel has it; asked for twice is fine.
for _ in 1 2; do
	cs store quotas
	is "quotas: on, or said why not" 0 "$([[ $err == *"Linux 6.7 has"* ]] && echo 0 || echo "$rc")"
done
cs store check
is "which harms nothing" 0 "$rc"

# Room comes back to the disk under it.
cs template update web --from "$scratch/root/etc" --activate
cs template prune web --keep 1
before=$(mib "$store.img")
cs store trim --json
is "trim: status" 0 "$rc"
claim "the image is smaller on its disk: $before, then $(mib "$store.img") MiB" \
	[ "$(mib "$store.img")" -lt $((before - 25)) ]

# Moved: a copy of the image is the store.
cs template list --json
umount "$store"
mkdir "$scratch/disk"
mv "$store.img" "$scratch/disk/moved.img"
rmdir "$store"
cs --store "$scratch/disk/moved" template verify --all
is "the image elsewhere is the same store" 0 "$rc"
cs --store "$scratch/disk/moved" store check
is "with nothing wrong" 0 "$rc"
umount "$scratch/disk/moved"
finish
