#!/bin/sh
# Restores the newest version of every file from a disk of Cloud Backup Kit. It needs a shell, gzip, and what every Unix has.
#
#   sh restore.sh /path/to/backups /path/to/target     writes <target>/<bucket>/<name of the file>, and <target>/SHA256SUMS
#   sh restore.sh /path/to/backups                     restores nothing; prints what SHA256SUMS would be
#
# The target must not lie on the backup disk. Run it again after it was broken off: what is there and right is left as it is, and what is
# there with another content is not overwritten, but counts as failed. Each file gets its name once it is whole. Exit code 1: some failed.
#
# Files that the application has deleted are restored as well, until the kit removes them from the disk: a disk cannot tell.
# To restore a single file, an older version, or to object storage, use `cbk restore`, or read README.txt beside this script.

set -u
LC_ALL=C
export LC_ALL
unset CDPATH

say() { printf '%s\n' "$*" >&2; }

die() {
    say "restore.sh: $*"
    exit 1
}

failed=0
fail() {
    say "FAILED $*"
    failed=$((failed + 1))
}

absolute() { # $1 from here, whatever it begins with
    case $1 in
        /*) printf '%s' "$1" ;;
        *) printf '%s' "$PWD/$1" ;;
    esac
}

refuse_within_root() {
    case $target/ in
        "$root"/*) die "the target must not lie on the backup disk" ;;
    esac
}

# ---- where from, where to ----------------------------------------------------------------------------------------------------

case $# in
    1 | 2) ;;
    *) die "usage: sh restore.sh /path/to/backups [/path/to/target]" ;;
esac
root=$(absolute "$1")
[ -d "$root" ] || die "there is no folder $root"
[ -e "$root/.cbk/identity" ] || say "NOTE: $root has no .cbk/identity: is the backup disk mounted there?"
root=$(cd "$root" && pwd -P) || die "cannot enter $root"

if [ $# -eq 2 ]; then
    target=$(absolute "$2")
    refuse_within_root
    mkdir -p "$target" || die "cannot make $target"
    target=$(cd "$target" && pwd -P) || die "cannot enter $target"
    refuse_within_root
    work=$target/.cbk # never the name of a bucket
    mkdir -p "$work" || die "cannot write to $target"
else
    target=
    work=${TMPDIR:-/tmp}/cbk-restore.$$
    mkdir "$work" || die "cannot make $work"
fi

part=$work/part
tidy() {
    rm -f "$part" "$work/found" "$work/newest" "$work/named" "$work/sorted" "$work/files" "$work/sums" "$work/problems"
    rmdir "$work" 2>/dev/null
}
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- which copies there are, and the newest of each file ---------------------------------------------------------------------

cd "$root" || die "cannot enter $root"
find . \( -path ./.cbk -o -path ./lost+found \) -prune -o -type f -name 'v*.gzip' -print >"$work/found" 2>"$work/problems" ||
    fail "to look everywhere: $(sed 3q "$work/problems")"

# Each copy is <bucket>/<folder of the file>/v<number>.gzip; the kit uses neither control characters nor "|" in a name. With as many
# digits for each number, the order of lines is that of numbers.
grep -v '[[:cntrl:]|]' "$work/found" |
    grep -E '^\./[^/]+/.*v(0|[1-9][0-9]{0,18})\.gzip$' |
    sed -n -e 's,/v\([0-9]*\)\.gzip$,|0000000000000000000\1,' -e 's,|0*\([0-9]\{19\}\)$,|\1,p' |
    sort -r |
    while IFS='|' read -r folder number; do
        [ "$folder" = "${last-}" ] || printf '%s|%s\n' "$folder" "$number"
        last=$folder
    done |
    sed 's,|0*\([0-9][0-9]*\)$,/v\1.gzip,' >"$work/newest"
[ -s "$work/newest" ] || die "there are no copies below $root"
count=$(($(wc -l <"$work/newest")))

# ---- what each copy says in its header ---------------------------------------------------------------------------------------

# The header begins with 16 bytes and goes on with one line of JSON, whose fields have a fixed order. No quote within a text is without a
# backslash. `restore_as` and `restore_else` consist of A-Z a-z 0-9 _ . - ~ / and %XX.
text='"[^"\\]*\(\\.[^"\\]*\)*"'
some="\\(null\\)*\\($text\\)*"
prefix="s/^{\"storage\":$text,\"path\":$text,\"name\":$text,\"version\":[0-9]*,\"sha256\":\"//"
names="s/^\\([0-9a-f]\\{64\\}\\)\",\"content_type\":$some,\"source_id\":$some,"
names="$names\"restore_as\":\"\\([^\"]*\\)\",\"restore_else\":\"\\([^\"]*\\)\",\"size\":.*/\\8|\\9|\\1/p"

is_safe() { # whether a name stays in its folder
    case /$1/ in
        *[!A-Za-z0-9_.~/%-]* | *//* | */./* | */../* | *%00* | *%2[EFef]* | *%[!0-9A-F]* | *%?[!0-9A-F]*) return 1 ;;
    esac
}

: >"$work/named"
while IFS= read -r location; do
    said=$(head -c 65551 "$location" 2>"$work/problems" | tail -c +17 | sed -n -e '1{' -e "$prefix" -e "$names" -e 'q' -e '}')
    own=${said%%"|"*}
    said=${said#*"|"}
    other=${said%%"|"*}
    below=${location#./}
    if is_safe "$own" && is_safe "$other"; then
        printf '%s/%s|%s|%s|%s\n' "${below%%/*}" "$own" "$other" "${said#*"|"}" "$below" >>"$work/named"
    elif [ -z "$target" ]; then
        fail "$below: its header cannot be read"
    elif mkdir -p "$work/unnamed/${below%/*}" && gzip -dc <"$location" >"$work/unnamed/${below%.gzip}" 2>"$work/problems"; then
        fail "$below: its header cannot be read; its content is in $work/unnamed/${below%.gzip}"
    else
        fail "$below: neither its header nor its content can be read: $(sed 1q "$work/problems")"
    fi
done <"$work/newest"

# ---- which names a folder cannot hold together -------------------------------------------------------------------------------

# Object storage has `a` beside `a/b`, and one name in two storages. The file that others' names lead through, and each of those that share
# one name, gets its other name, which is its alone. In this order, what lies below a name comes right after it.
deeper=$(printf '\001') # stands for the slash: nothing sorts before it
settle() {
    before=
    IFS='|' read -r path other sha256 location || return 0
    while [ -n "$path" ]; do
        next_path=
        IFS='|' read -r next_path next_other next_sha256 next_location
        name=${path#*"$deeper"}
        case $next_path in
            "$path" | "$path$deeper"*) name=$other ;;
        esac
        [ "$path" != "$before" ] || name=$other
        printf '%s|%s|%s|%s\n' "${path%%"$deeper"*}" "$name" "$sha256" "$location"
        before=$path path=$next_path other=${next_other-} sha256=${next_sha256-} location=${next_location-}
    done
}
tr '/' '\001' <"$work/named" | sort -t '|' -k 1,1 >"$work/sorted"
settle <"$work/sorted" | tr '\001' '/' >"$work/files"

# ---- restore -----------------------------------------------------------------------------------------------------------------

# Of a name with %XX: `plain` as the file is called, and `listed` as `sha256sum` writes it, with `mark` before the line.
spell() {
    mark='' plain=$1 listed=$1
    case $1 in
        *%*) ;;
        *) return ;;
    esac
    rest=$1 octal='' listed=''
    while :; do
        case $rest in
            *%*) ;;
            *) break ;;
        esac
        start=${rest%%\%*}
        rest=${rest#*\%}
        pair=${rest%"${rest#??}"}
        rest=${rest#??}
        code=$((0x$pair))
        code="\\0$((code / 64))$((code / 8 % 8))$((code % 8))"
        octal=$octal$start$code
        case $pair in
            5C) listed="$listed$start$code$code" mark="\\" ;;
            0A) listed="$listed$start${slash}n" mark="\\" ;;
            0D) listed="$listed$start${slash}r" mark="\\" ;;
            *) listed=$listed$start$code ;;
        esac
    done
    plain=$(printf '%b.' "$octal$rest") # the dot keeps a newline at the end
    plain=${plain%.}
    listed=$listed$rest
}
slash='\0134'

list() { # one line of SHA256SUMS
    printf '%s%s  %s/%b\n' "$mark" "$sha256" "$bucket" "$listed"
}

restore() { # one copy to its name; says in `outcome` what became of it
    outcome=failed
    final=$target/$bucket/$plain
    if [ -e "$final" ] || [ -L "$final" ]; then
        if gzip -dc <"$location" 2>"$work/problems" | cmp -s - "$final"; then
            outcome=kept
        else
            fail "$location: $bucket/$name is there already, with another content"
        fi
    elif ! gzip -dc <"$location" 2>"$work/problems" >"$part"; then
        fail "$location: $(sed 1q "$work/problems")"
    elif { [ -d "${final%/*}" ] || mkdir -p "${final%/*}"; } 2>"$work/problems" && mv "$part" "$final" 2>"$work/problems"; then
        outcome=restored
    else
        fail "$location: $(sed 1q "$work/problems")"
    fi
}

can_sum=$(command -v sha256sum)
fail_sum() { fail "$1: it does not have the SHA-256 that was recorded when it was backed up"; }

restored=0 kept=0 done=0
: >"$work/sums"
while IFS='|' read -r bucket name sha256 location; do
    spell "$name"
    if [ -z "$target" ]; then
        list
        continue
    fi
    restore
    case $outcome in
        restored) restored=$((restored + 1)) ;;
        kept) kept=$((kept + 1)) ;;
    esac
    if [ $outcome != failed ]; then
        list >>"$work/sums"
        # Not every sha256sum can read a name with a backslash before its line.
        [ -z "$mark" ] || [ -z "$can_sum" ] || [ "$(sha256sum <"$final")" = "$sha256  -" ] || fail_sum "$bucket/$name"
    fi
    done=$((done + 1))
    [ $((done % 1000)) -ne 0 ] || say "$done of $count files"
done <"$work/files"

[ -n "$target" ] || exit $((failed > 0))

# ---- and prove it ------------------------------------------------------------------------------------------------------------

sums=$target/SHA256SUMS
[ ! -d "$sums" ] || sums=$work/SHA256SUMS # a bucket has that name
mv "$work/sums" "$sums" || die "cannot write $sums"
checked='there is no sha256sum here to check them with'
if [ -n "$can_sum" ]; then
    cd "$target" || die "cannot enter $target"
    checked='each was compared with the SHA-256 that was recorded when it was backed up'
    if grep -v '^[\]' "$sums" >"$work/found" && ! sha256sum -c "$work/found" >"$work/problems" 2>&1; then
        grep ': FAILED' "$work/problems" | sed -e 's/: FAILED.*//' -e 's/[[:cntrl:]]/?/g' >"$work/found"
        while IFS= read -r name; do
            fail_sum "$name"
        done <"$work/found"
    fi
fi

files='files'
[ "$restored" -ne 1 ] || files='file'
say "restored $restored $files to $target, $kept were there already, $failed failed; $checked"
say "files that were deleted lately are among them: the disk keeps those for some days, and cannot tell"
[ $failed -eq 0 ]
