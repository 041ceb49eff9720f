#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# template update, activate, rollback, versions, prune: which version new guests get, which stay, and
# what they share. Guests are cards written by hand. In a folder, and where it may on a Btrfs image.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

fake_kernel "$kernel" 6.12.1-clearstore 1
fake_root "$scratch/root"
head -c 8M /dev/urandom >"$scratch/root/large"

field() {
	python3 -c 'import json, sys
found = json.load(sys.stdin)
found = next(v for v in found if v["version"] == sys.argv[2]) if isinstance(found, list) else found
print(found[sys.argv[1]])' "$@" <"$scratch/out"
}

digest() {
	cs template show "$1" --json
	field root_sha256
}

# A guest of VERSION that is only a card.
guest() {
	mkdir -p "$store/guests/$1"
	cat >"$store/guests/$1/card.json" <<-END
		{"format": 1, "guest": "$1", "template": "web", "version": "$2", "ram_bytes": 134217728,
		 "disk_bytes": 0, "vcpus": 1, "persist": false, "run_init": false, "resume": false,
		 "remove_on_exit": false, "created": 1700000000, "started": 0, "command": null, "env": null,
		 "append": null, "boot": "$(cat /proc/sys/kernel/random/boot_id)", "monitor": {"pid": 0, "start_ticks": 0},
		 "owner": {"pid": 0, "start_ticks": 0}}
	END
}

versions() {
	cs template versions web --quiet
	xargs <<<"$out"
}

check() {
	local first second where=$1 format=$2

	cs template add web --from "$scratch/root" --append one --root-format "$format"
	first=$(digest web)
	is "$where: versions: one" 1 "$(versions)"
	fails 1 'no version before the active one' template rollback web

	# what is new is there, what is not stays
	echo more >"$scratch/root/etc/more"
	cs template update web --from "$scratch/root"
	is "$where: updated" 0 "$rc"
	claim "$where: says what is new" grep -qE \
		'^web@2: [0-9.]+ MiB in [0-9]+ files, [0-9.]+ [KM]iB new, [0-9.]+ [KM]?i?B shared with web@1, [0-9.]+ s$' <<<"$out"
	claim "$where: and how to go on" has "$out" 'clearstore template activate web 2'
	is "$where: two versions" '1 2' "$(versions)"
	is "$where: the active one is as it was" "$first" "$(digest web)"
	second=$(digest web@2)
	claim "$where: the other is another" [ "$first" != "$second" ]
	cs template show web@2 --json
	is "$where: its command line stayed" one "$(field cmdline)"
	is "$where: what it was made from" 1 "$(field parent)"
	cs template add same --from "$scratch/root" --append one --root-format "$format"
	if [ "$format" = erofs ]; then
		is "$where: the root is as if added anew" "$second" "$(digest same)"
	fi
	cs template remove same

	cs template activate web 2
	is "$where: activate: status and words" '0 web: new guests get version 2, before: 1' "$rc $out"
	is "$where: new guests get it" "$second" "$(digest web)"
	cs template activate web 2
	is "$where: again: nothing to do" 0 "$rc"
	cs template rollback web
	is "$where: rollback: status and words" '0 web: new guests get version 1' "$rc $out"
	is "$where: new guests get the first again" "$first" "$(digest web)"

	# other parts alone; the version that it is made from
	cs template update web@2 --append two --activate --json
	is "$where: update --activate, as JSON" '3 2 True' "$(field version) $(field parent) $(field active)"
	is "$where: a root that was left out is the same" "$second" "$(digest web)"
	cs template show web --json
	is "$where: with the new command line" two "$(field cmdline)"
	fake_kernel "$scratch/other" 6.12.2-clearstore 1
	cs template update web --kernel "$scratch/other"
	cs template show web@4 --json
	is "$where: with the new kernel" 6.12.2-clearstore "$(field kernel_release)"
	cs template verify web@4
	is "$where: whole" 0 "$rc"

	# nothing that is in use goes
	guest g 1
	cs template versions web --json
	is "$where: versions says who uses what" '1 0 True False' \
		"$(field guests 1) $(field guests 2) $(field active 3) $(field active 4)"
	cs list
	claim "$where: list says NAME@VERSION" grep -qE '^g +web@1 ' <<<"$out"
	fails 1 "used by guest 'g'" template remove web
	fails 1 "used by guest 'g'" template remove web@1
	fails 1 'is the active one' template remove web@3
	cs template prune web --keep 1
	is "$where: prune keeps the newest, the active one, and what a guest has" \
		"0 web@2: removed 1 3 4" "$rc $out $(versions)"
	cs template verify web@1
	is "$where: the guest's version is whole" 0 "$rc"
	cs template remove web@4
	is "$where: one version is removed" '0 1 3' "$rc $(versions)"
	rm -r "$store/guests/g"
	cs template prune web --keep 1
	is "$where: without the guest the first goes, too" '0 web@1: removed' "$rc $out"
	cs template prune web
	is "$where: nothing to prune" '0 ' "$rc $out"
	claim "$where: nothing half-made" only_templates web
	is "$where: nor in the template" '3 active' "$(cd "$store/templates/web" && find . -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | xargs)"

	# a broken version is not switched to
	fails 1 'no saved machine to be like' template update web --append none --warm
	cs template update web --append three
	mv "$store/templates/web" "$store/templates/kept"
	cp -r "$store/templates/kept" "$store/templates/web"
	chmod -R u+w "$store/templates/web"
	rm "$store/templates/web/4/root"
	fails 1 "part 'root'" template activate web 4
	cs template versions web
	claim "$where: versions says that it is broken" grep -q '^4 .*part .root.' <<<"$out"
	rm "$store/templates/web/3/root"
	cs template update web@3 --append four
	is "$where: nothing is made of a broken one" 1 "$rc"
	chmod -R u+w "$store/templates/web"
	rm -r "$store/templates/web"
	mv "$store/templates/kept" "$store/templates/web"
	cs template remove web
	is "$where: all versions go with the template" 0 "$rc"
	rm "$scratch/root/etc/more"
}

folder_store
check folder erofs
cs template add web --from "$scratch/root"
fails 2 'no version given' template activate web
fails 2 'no template given' template activate
fails 2 'one template only' template activate web 1 2
fails 2 'nothing new given' template update web
fails 2 'of a new root' template update web --append x --agent x
fails 2 'of a new root' template update web --append x --root-format ext4
fails 2 'new kernel or root' template update web --append x --modules none
fails 1 "template 'other': not there" template update other --append x
fails 1 "no version '9'" template activate web 9
fails 1 "no version '9'" template update web@9 --append x
fails 1 "no version '9'" template remove web@9
fails 1 "no version 'active'" template remove web@active
fails 1 'not a legal name' template activate web ..
fails 1 'not a legal name' template activate web ''
fails 1 'without a version' template versions web@1
fails 1 'without a version' template activate web@1 1
fails 1 "keep '0'" template prune web --keep 0
fake_kernel "$scratch/stock" 6.12.1-other 1
fails 1 'come with the root' template update web --kernel "$scratch/stock"
fails 1 'disk of' template update web --disk 1M
claim "what fails leaves nothing" only_templates web
is "and no version" 1 "$(versions)"

# an update of a folder that another process works on
exec 8<"$store/templates/web"
flock 8
fails 1 'another process works on it' template update web --append x
fails 1 'another process works on it' template prune web
cs template activate web 1
is "switching is not held up by it" 0 "$rc"
exec 8<&-
rm -rf "$store"
chmod -R u+w "$scratch/folder"
rm -r "$scratch/folder"

image_store 2G
check image erofs
if grep -qw erofs /proc/filesystems; then check image-ext4 ext4; fi

# What is shared is shared indeed: by what the file system says.
used() {
	btrfs filesystem sync "$store"
	btrfs filesystem df -b "$store" | sed -n 's/^Data.*used=//p'
}
if command -v btrfs >/dev/null; then
	cs template add web --from "$scratch/root"
	before=$(used)
	echo more >"$scratch/root/etc/zz"
	cs template update web --from "$scratch/root" --json
	new=$(field new_bytes)
	claim "an update stores less than 1 MiB, says less than 1 MiB ($(($(used) - before)), $new)" \
		[ $(($(used) - before + new)) -lt 2000000 ]
	cs template verify web@2
	is "and is whole" 0 "$rc"
fi
finish
