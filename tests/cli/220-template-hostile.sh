#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Archives that want out, or more than there is: each is refused in one line that names the entry, and
# neither the store nor the host has anything of it.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

folder_store
fake_kernel "$kernel" 6.12.1-clearstore 1

# make_tar NAME: an archive of what the Python on stdin adds to "t".
make_tar() {
	{
		cat <<-'END'
			import io, sys, tarfile
			t = tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT)
			def add(name, kind=tarfile.REGTYPE, target="", data=b"x", **more):
			    e = tarfile.TarInfo(name)
			    e.type, e.linkname, e.mode = kind, target, 0o755
			    e.size = len(data) if kind == tarfile.REGTYPE else 0
			    for key, value in more.items():
			        setattr(e, key, value)
			    t.addfile(e, io.BytesIO(data))
		END
		cat
		echo 't.close()'
	} | python3 - "$scratch/$1.tar"
}

hostile() {
	local name=$1 words=$2

	make_tar "$name"
	fails 1 "$words" template add x --from "$scratch/$name.tar"
	claim "$name: nothing is left in the store" only_templates
}

touch "$scratch/victim"
hostile dotdot "entry '../victim': its name leads out of the root" <<<'add("../victim")'
hostile inner-dotdot "entry 'a/../../../victim'" <<<'add("a/../../../victim")'
hostile absolute "entry '/etc/evil': its name is an absolute path" <<<'add("/etc/evil")'
hostile hard-link-out 'leads out of the root' <<<'add("h", tarfile.LNKTYPE, "../../../../etc/passwd")'
hostile hard-link-absolute 'absolute path' <<<'add("h", tarfile.LNKTYPE, "/etc/passwd")'
hostile hard-link-nowhere "a hard link to 'gone'" <<<'add("h", tarfile.LNKTYPE, "gone")'
hostile devices 'over 4096 device nodes' <<-'END'
	for i in range(5000):
	    add(f"dev/{i}", tarfile.CHRTYPE, devmajor=1, devminor=3)
END
hostile long-name "File name too long" <<<'add("n" * 300)'
hostile control-characters "entry '../?[2J" <<<'add("../\x1b[2J\n\r")'
hostile link-loop "Too many levels of symbolic links" <<-'END'
	add("a", tarfile.SYMTYPE, "b"); add("b", tarfile.SYMTYPE, "a"); add("a/x")
END
hostile deep 'folders deep' <<-'END'
	for i in range(1, 2000):
	    add("d/" * i, tarfile.DIRTYPE)
END
hostile file-over-folder 'would replace a folder' <<<'add("d/f"); add("d")'

# Links that lead out are links, no more: what follows them stays inside.
make_tar inside <<-END
	add("out", tarfile.SYMTYPE, "$scratch")
	add("out/victim-2")
	add("up", tarfile.SYMTYPE, "../../../../../../../../../tmp")
	add("up/clearstore-was-here")
	add("sbin", tarfile.SYMTYPE, "/")
	add("run", tarfile.SYMTYPE, "$scratch")
END
cs template add inside --from "$scratch/inside.tar"
is "links out: taken, as they are" 0 "$rc"
claim "nothing was written through them" [ ! -e "$scratch/victim-2" ]
claim "nor up" [ ! -e /tmp/clearstore-was-here ]
claim "nor by the agent" [ ! -e /clearstore-agent ]
is "what was there is untouched" '' "$(cat "$scratch/victim")"
if command -v fsck.erofs >/dev/null; then
	fsck.erofs --extract="$scratch/extracted" "$store/templates/inside/1/root" >/dev/null
	is "the file is inside" x "$(cat "$scratch/extracted$scratch/victim-2")"
	is "the agent is where its link leads, inside" 'the agent' \
		"$(cat "$scratch/extracted/clearstore-agent")"
fi
cs template remove inside

# Not archives.
head -c 100000 /dev/urandom >"$scratch/random"
fails 1 'not an archive' template add x --from "$scratch/random"
: >"$scratch/empty"
fails 1 'an empty file, not an archive' template add x --from "$scratch/empty"
tar -cf "$scratch/none.tar" -T /dev/null
fails 1 'empty archive' template add x --from "$scratch/none.tar"
mkfifo "$scratch/fifo"
fails 1 'neither a folder nor a file' template add x --from "$scratch/fifo"
fails 1 "'/dev/null'" template add x --from /dev/null
printf '#mtree\n./shadow type=file contents=/etc/shadow\n' >"$scratch/mtree"
fails 1 'not an archive' template add x --from "$scratch/mtree"
make_tar whole <<<'add("a", data=b"a" * 5000); add("b", data=b"b" * 5000)'
for cut in 1 511 512 1000 5632 6144 6145 7000 11000 11264; do
	head -c "$cut" "$scratch/whole.tar" >"$scratch/cut.tar"
	cs template add x --from "$scratch/cut.tar"
	claim "cut at $cut bytes: refused in one line" failed_with 1 'archive'
done
claim "nothing is left" only_templates
claim "no temporary files either" [ -z "$(ls -A "$TMPDIR")" ]
finish
