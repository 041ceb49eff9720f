#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# template add, list, show, verify, remove: from a folder and from every kind of archive.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

folder_store
fake_kernel "$kernel" 6.12.1-clearstore 1
fake_root "$scratch/root"
root=$scratch/root

cs template list
is "no templates: no table" '0 ' "$rc $out"
cs template list --json
is "no templates: an empty array" '[]' "$out"

cs template add web --from "$root" --append 'quiet name=x'
is "a template from a folder" 0 "$rc"
line='^web: [0-9.]+ MiB in [0-9]+ files, [0-9.]+ MiB stored, dedup ratio [0-9.]+, [0-9.]+ s, [0-9]+ MB/s$'
claim "closes with one line of figures" grep -qE "$line" <<<"$out"
is "and nothing but it" 1 "$(wc -l <<<"$out")"
is "nothing is said on stderr" '' "$err"
claim "it is published whole" only_templates web
claim "nothing is left of the making" [ -z "$(ls -A "$TMPDIR")" ]

cs template add said --from "$root" --json
is "the same as JSON" "said True True" "$(python3 -c 'import json,sys
said = json.load(sys.stdin)
print(said["template"], said["files"] > 0 and said["input_bytes"] > 0, said["stored_bytes"] > 0)' <<<"$out")"
cs template remove said

cs template list
claim "it is listed" grep -q '^web .*6\.12\.1-clearstore .*erofs' <<<"$out"
claim "with no column of what is broken" grep -qE '^NAME .* CREATED$' <<<"$out"
cs template list --json
is "as JSON, too" 'web 1 erofs' "$(python3 -c 'import json,sys
t = json.load(sys.stdin)[0]
print(t["name"], t["version"], t["root_format"])' <<<"$out")"
cs template show web
claim "shown: its command line" has "$out" 'quiet name=x'
claim "shown: the root is for DAX" grep -qE '^ROOT DAX: +yes' <<<"$out"
cs --json template show web
is "shown as JSON" 'True file False' "$(python3 -c 'import json,sys
t = json.load(sys.stdin)
assert len(t["root_sha256"]) == 64 and t["root_bytes"] % (2 << 20) == 0, t
print(t["root_dax"], t["kernel_media"], t["stock_kernel"])' <<<"$out")"
is "the digest is what sha256sum says" "$(sha256sum <"$store/templates/web/1/root" | cut -d ' ' -f 1)" \
	"$(python3 -c 'import json,sys; print(json.load(sys.stdin)["root_sha256"])' <<<"$out")"
cs template verify web
is "verified" 0 "$rc"
claim "says what it read" grep -qE '^web +1 +3 +[0-9.]+ MiB yes' <<<"$out"

# What is the same comes out the same, whatever it came in.
digest() {
	cs template show "$1" --json
	python3 -c 'import json,sys; print(json.load(sys.stdin)["root_sha256"])' <<<"$out"
}

tar -C "$root" --sort=name --sparse --xattrs --xattrs-include='*' -cf "$scratch/root.tar" .
cs template add tar --from "$scratch/root.tar"
is "a template from a tar" 0 "$rc"
claim "the holes of a file of 16 GiB take no room" \
	[ "$(stat -c %s "$store/templates/tar/1/root")" -lt 30000000 ]
wanted=$(digest tar)
for program_and_options in gzip 'xz -0' 'zstd -q' bzip2 'lz4 -q' lzip 'lzma -0' compress; do
	read -ra packer <<<"$program_and_options"
	if ! command -v "${packer[0]}" >/dev/null; then
		echo "# not tried: ${packer[0]}"
		continue
	fi
	"${packer[@]}" -c <"$scratch/root.tar" >"$scratch/packed"
	cs template add packed --from "$scratch/packed"
	is "packed by ${packer[0]}: taken" 0 "$rc"
	is "packed by ${packer[0]}: the same root" "$wanted" "$(digest packed)"
	head -c $(($(stat -c %s "$scratch/packed") * 2 / 3)) "$scratch/packed" >"$scratch/cut"
	cs template remove packed
	fails 1 'truncated' template add packed --from "$scratch/cut"
done
claim "of what was cut nothing is left" only_templates tar web

(cd "$root" && find . ! -name sparse -print0 | cpio --quiet -0 -o -H newc >"$scratch/root.cpio")
cs template add cpio --from "$scratch/root.cpio"
is "a cpio: taken" 0 "$rc"
(cd "$root" && python3 -c 'import sys, zipfile
z = zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED)
z.write("etc/file-3"); z.write("usr/bin/tool")' "$scratch/root.zip")
cs template add zip --from "$scratch/root.zip"
is "a zip: taken" 0 "$rc"

cs template remove zip
is "removed: status and words" '0 ' "$rc $out$err"
claim "it is gone" only_templates cpio tar web
fails 1 "template 'zip': not there" template remove zip
fails 1 "template 'zip': not there" template show zip
fails 1 "template 'zip': not there" template learn zip
fails 1 "template 'web': no saved machine (clearstore template warm web)" template learn web
fails 1 "no version '7'" template show web@7
cs template show web@1
is "a version can be named" 0 "$rc"

chmod u+w "$store/templates/tar/1/root"
printf x | dd of="$store/templates/tar/1/root" bs=1 seek=1000000 conv=notrunc status=none
cs template verify tar
is "a damaged one: status" 1 "$rc"
claim "says what is damaged" has "$err" "part 'root' is damaged"
cs template list
claim "a damaged one is still listed" grep -q '^tar .*in quarantine' <<<"$out"
claim "the reason has a column" grep -qE '^NAME .* BROKEN$' <<<"$out"
claim "which is empty for others" grep -qE '^web .* -$' <<<"$out"
chmod u+w "$store/templates/cpio/1"
rm "$store/templates/cpio/1/manifest.json"
cs template list
claim "a broken one is listed, with its reason" grep -q '^cpio .*manifest.json' <<<"$out"
cs template remove cpio
is "and can be removed" 0 "$rc"

chmod u+w "$store/templates/web" "$store/templates/web/1"
mv "$store/templates/web/1" "$store/templates/elsewhere"
ln -s ../elsewhere "$store/templates/web/1"
cs template list
claim "a link in place of a version is broken" grep -q "^web .*no version '1'" <<<"$out"
rm "$store/templates/web/1"
mv "$store/templates/elsewhere" "$store/templates/web/1"
cs template list
claim "back in its place it is whole" grep -qE '^web .* -$' <<<"$out"

cs template list --quiet
is "names only" 'tar web' "$(tr '\n' ' ' <<<"$out" | sed 's/ $//')"
fails 2 'no name' template add
fails 2 '--from' template add x
fails 2 'one name only' template add x y --from "$root"
fails 2 'no template given' template show
fails 2 "'extra'" template list extra
fails 1 "root format 'zfs'" template add x --from "$root" --root-format zfs
fails 1 "disk 'none'" template add x --from "$root" --disk none
fails 1 'disk of' template add x --from "$root" --disk 1M
fails 1 'there is one of that name' template add web --from "$root"
fails 1 "not a legal name" template add a/b --from "$root"
fails 1 "not a legal name" template add ../x --from "$root"
fails 1 "not a legal name" template add "$(printf '%0300d' 0)" --from "$root"
fails 1 "'$scratch/gone'" template add x --from "$scratch/gone"
CLEARSTORE_KERNEL=$scratch/gone fails 1 "kernel '$scratch/gone'" template add x --from "$root"
CLEARSTORE_AGENT=$scratch/gone fails 1 "agent '$scratch/gone'" template add x --from "$root"
fails 1 'not a kernel' template add x --from "$root" --kernel "$scratch/agent"
gzip -c "$kernel" >"$scratch/kernel.gz"
fails 1 'unpack it first (gzip -d)' template add x --from "$root" --kernel "$scratch/kernel.gz"
head -c 500000 "$kernel" >"$scratch/cut"
fails 1 'truncated vmlinux' template add x --from "$root" --kernel "$scratch/cut"
fake_kernel "$scratch/stock" 6.12.1-other 1
fails 1 'needs modules' template add x --from "$root" --kernel "$scratch/stock"
cs template add x --from "$root" --kernel "$scratch/stock" --modules none
is "a kernel of others without modules: when it is said so" 0 "$rc"
claim "nothing else was left" only_templates tar web x
claim "no temporary files either" [ -z "$(ls -A "$TMPDIR")" ]
finish
