#!/bin/sh
# Installs the kit as a service on Raspberry Pi OS or Debian (12 or later, arm64 or amd64): docs/install.md. To be run as root.
#
#   scripts/install.sh                      asks for the settings, then starts everything
#   scripts/install.sh --answers FILE       asks nothing (docs/commands.md, cbk setup)
#   scripts/install.sh --join USER@FIRST    a further machine: with the settings of the first one, by ssh, or from a file
#   scripts/install.sh --upgrade            another release: built and tried beside the one that runs, which comes back if anything fails
#   scripts/install.sh --rollback           the release that was there before the last upgrade, with the catalog that it left
#   scripts/install.sh --uninstall          takes the programs away, and leaves copies, catalog and settings
#
# --wheel FILE installs this wheel instead of the tree that this script lies in, --no-redis no Redis. --dry-run says what would be done.
# --workers N runs N workers (1 to 9). Without it a machine gets two where it has at least two processors and 2 GB of memory, else one,
# and keeps those that it has.
# A second run changes nothing: settings that are there are kept, and nothing is started anew without a reason.
set -eu
umask 022

# What runs on the first machine of a site, beside the workers, which run on every one.
FIRST="cbk-beat.service cbk-flower.service cbk-page.service"
# A machine of 2 GB has about this many kB that Linux can use.
ROOM_FOR_TWO=1800000

# A link to the release that runs, and where each release has a folder: the former one stays until another one works.
VENV=/opt/cbk
RELEASES=/opt/cbk-releases
FORMER=$RELEASES/former
# From before services are stopped for another release until they run: the folders of the former release and of the other one, and
# `started` once services of the other one were started.
SWAP=$RELEASES/swap
CONFIG=/etc/cbk/cbk.toml
# What this machine is to its site: `first`, or `joined`, where only workers run. It counts where there are settings.
ROLE=/etc/cbk/role
# How many workers were asked for, from before units are enabled until all of them are started: a run that was killed is made up for.
UNFINISHED=/etc/cbk/unfinished
# There from before the settings until the disk is prepared.
UNPREPARED=/etc/cbk/unprepared
UNITS=/etc/systemd/system
WANTED=$UNITS/cbk.target.wants
COMMAND=/usr/local/bin/cbk
SHARE=/usr/local/share
STAMP=cbk-installed
# Services that end at once are seen by then.
SETTLING_SECONDS=10
export DEBIAN_FRONTEND=noninteractive
unset CBK_CONFIG CBK_VENV CBK_CELERY_CONFIG

here=$(cd "$(dirname "$0")" && pwd)
tree=$(dirname "$here")
answers='' join='' wheel='' workers='' mount='' redis=yes mode=install dry='' changed='' programs=$VENV built='' swapping=''

say() {
    printf '%s\n' "$*"
}

fail() {
    printf 'install.sh: %s\nHINT: %s\n' "$1" "$2" >&2
    exit 1
}

# Does what changes the machine, and says so; with --dry-run says it only.
run() {
    changed=yes
    say "${dry:+would: }$*"
    [ -n "$dry" ] || "$@"
}

# put MODE TARGET: standard input becomes the file TARGET, unless it is that already.
put() {
    content=$(cat && echo .)
    content=${content%.}
    [ "$(cat "$2" 2>/dev/null && echo .)" != "$content." ] || return 0
    changed=yes
    say "${dry:+would: }write $2"
    [ -z "$dry" ] || return 0
    mkdir -p "$(dirname "$2")"
    printf '%s' "$content" >"$2.new"
    chmod "$1" "$2.new"
    mv "$2.new" "$2"
}

# setting FILE NAME DEFAULT: a text from a TOML file.
setting() {
    python3 -I -c 'import sys, tomllib; print(tomllib.load(open(sys.argv[1], "rb")).get(sys.argv[2], sys.argv[3]))' "$@"
}

# A command of the kit as its own user, from a folder that this user can enter.
as_cbk() {
    (cd / && HOME=/var/lib/cbk runuser -u cbk -- "$programs/bin/cbk" "$@")
}

while [ $# -gt 0 ]; do
    case $1 in
        --answers | --join | --wheel | --workers)
            [ $# -ge 2 ] || fail "$1 needs a value" "the head of this script says what it takes"
            case $1 in
                --answers) answers=$2 ;;
                --join) join=$2 ;;
                --wheel) wheel=$2 ;;
                --workers) workers=$2 ;;
            esac
            shift
            ;;
        --no-redis) redis='' ;;
        --upgrade) mode=upgrade ;;
        --rollback) mode=rollback ;;
        --uninstall) mode=uninstall ;;
        --dry-run) dry=yes ;;
        -h | --help)
            sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        *) fail "unknown option $1" "the head of this script says what it takes" ;;
    esac
    shift
done

case $workers in
    '' | [1-9]) ;;
    *) fail "--workers takes a number from 1 to 9, not $workers" "one for each two processors is plenty; docs/operations.md says why" ;;
esac
# What the programs are made for, and not what the kernel could run.
[ "$(getconf LONG_BIT)" = 64 ] || fail "this is a 32-bit system, and the kit needs 64 bits" \
    "install the 64-bit Raspberry Pi OS (any Pi from the 3 on runs it), or another 64-bit Debian; nothing was changed here"
[ "$(id -u)" = 0 ] || fail "only root can install a service" "sudo $0"
for tool in apt-get systemctl runuser; do
    command -v $tool >/dev/null || fail "there is no $tool" "this script is for Debian and Raspberry Pi OS; docs/operations.md is for others"
done

# ---- what each step does ----------------------------------------------------------------------------------------------------------

install_packages() {
    wanted=''
    command -v python3 >/dev/null || wanted=python3
    if [ -n "$wanted" ] || lacks_redis; then
        run apt-get -qq update
        ! lacks_redis || wanted="$wanted $(offered_redis)"
        # shellcheck disable=SC2086 # names of packages, apart by blanks
        run apt-get -qq -y --no-install-recommends install $wanted
    fi
    [ -n "$dry" ] || python3 -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed, this is $(python3 -V)" "install Debian 12 or Raspberry Pi OS of 2023-10, or later"
}

lacks_redis() {
    [ -n "$redis" ] && ! command -v redis-server >/dev/null && ! command -v valkey-server >/dev/null
}

offered_redis() {
    for package in valkey-server redis-server; do
        if apt-cache policy $package 2>/dev/null | grep -q 'Candidate: [^(]'; then
            echo $package
            return
        fi
    done
    fail "apt offers neither Valkey nor Redis" "name one that is elsewhere: --no-redis, and its URL among the settings"
}

make_user() {
    # On a shared disk the copies belong to one number: that of whoever owns the disk's folder.
    number=''
    [ -z "$join" ] || number=$(stat -c %u "$root" 2>/dev/null || true)
    [ "$number" != 0 ] || fail "$root belongs to root: no machine works with it" "mount the share of the first machine there; docs/install.md shows how"
    if getent passwd cbk >/dev/null; then
        [ -z "$number" ] || [ "$(id -u cbk)" = "$number" ] ||
            fail "the user cbk has number $(id -u cbk) here, and $root belongs to $number" "userdel cbk, then start this script again"
        return 0
    fi
    # shellcheck disable=SC2086 # nothing, where there is no number
    run groupadd --system ${number:+--gid $number} cbk
    # shellcheck disable=SC2086 # as above
    run useradd --system --gid cbk ${number:+--uid $number} --home-dir /var/lib/cbk --no-create-home --shell /usr/sbin/nologin cbk
}

# Changes whenever the programs have to be installed anew.
fingerprint() {
    {
        python3 -V
        cat "$tree/constraints/runtime.txt" "$tree/scripts/vendor/SHA256SUMS"
        if [ -n "$wheel" ]; then
            sha256sum <"$wheel"
        else
            (cd "$tree" && find cbk pyproject.toml -type f ! -name '*.pyc' -exec sha256sum {} + | sort -k 2)
        fi
    } | sha256sum | cut -d ' ' -f 1
}

# Whether there are programs in this folder, and run.
works() {
    "$1/bin/python" -I -c 'import cbk' 2>/dev/null
}

# Builds the programs in a folder of their own, beside those that run, and sets `programs` to it; where they are there already, to these.
build_programs() {
    wanted=$(fingerprint)
    if [ "$(cat "$VENV/$STAMP" 2>/dev/null)" = "$wanted" ] && works $VENV; then
        return 0
    fi
    changed=yes
    say "${dry:+would: }build the programs in a folder below $RELEASES"
    [ -z "$dry" ] || return 0
    mkdir -p $RELEASES
    built=$(mktemp -d "$RELEASES/XXXXXXXX")
    chmod 755 "$built"
    programs=$built
    CBK_VENV=$programs "$here/bootstrap" runtime >/dev/null
    if [ -z "$wheel" ]; then
        pip wheel --no-deps --no-build-isolation --wheel-dir "$work" "$tree"
        wheel=$(echo "$work"/cloud_backup_kit-*.whl)
    fi
    pip install --force-reinstall --no-deps "$wheel"
    (cd / && "$programs/bin/python" -I -c 'import cbk.celery, cbk.cli.main, cbk.page.server, flower') ||
        fail "the programs were built, and do not run" "what is missing is said above"
    echo "$wanted" >"$programs/$STAMP"
}

# The project's own pip, which scripts/bootstrap has compared with its checksum; without an index.
pip() {
    command=$1
    shift
    "$programs/bin/python" -I "$(echo "$here"/vendor/pip-*.whl)/pip" --isolated --quiet --disable-pip-version-check \
        "$command" --no-index "$@"
}

# ---- from one release to another --------------------------------------------------------------------------------------------------

# The folder of the release that runs. One of before there were folders moves into one with the swap.
running_release() {
    if [ -d $VENV ] && [ ! -L $VENV ]; then
        echo $RELEASES/first
    else
        readlink $VENV
    fi
}

point_to() {
    if [ -d $VENV ] && [ ! -L $VENV ]; then
        run mv $VENV $RELEASES/first
    fi
    run ln -sfn "$1" $VENV.new
    run mv -T $VENV.new $VENV
}

# The revision of the catalog that the release in this folder needs.
revision_needed() {
    for migration in "$1"/lib/python3*/site-packages/cbk/edges/catalog/migrations/versions/[0-9]*.py; do
        [ ! -f "$migration" ] || echo "${migration##*/}"
    done | sed 's/_.*//' | sort | tail -n 1
}

# What this script writes beside the programs of a release, and a former release gets back.
written_files() {
    for file in "$UNITS"/cbk.target "$UNITS"/cbk-*.service "$UNITS"/cbk-worker@.service.d/disk.conf \
        "$UNITS"/cbk-worker@.service.d/workers.conf $COMMAND; do
        [ ! -f "$file" ] || printf '%s\n' "$file"
    done
}

keep_files() {
    rm -rf "$1/kept.new"
    mkdir "$1/kept.new"
    written_files | while read -r file; do
        mkdir -p "$1/kept.new${file%/*}"
        cp -p "$file" "$1/kept.new$file"
    done
    rm -rf "$1/kept"
    mv "$1/kept.new" "$1/kept"
}

put_back_files() {
    written_files | while read -r file; do
        if [ ! -f "$1/kept$file" ]; then
            [ "${file%.service}" = "$file" ] || systemctl -q disable "${file##*/}" || true
            rm "$file"
        fi
    done
    find "$1/kept" -type f | while read -r kept; do
        file=${kept#"$1/kept"}
        mkdir -p "$(dirname "$file")"
        cp -p "$kept" "$file.new"
        mv "$file.new" "$file"
    done
}

# Whatever can be tried while services run: settings, disk, catalog, and the migration.
check_programs() {
    [ -n "$had_settings" ] && [ -n "$built" ] && [ ! -e "$UNPREPARED" ] || return 0
    as_cbk upgrade --dry-run >"$work/tried" || fail "the other release cannot take over" "what is said above comes first; then $0 again"
}

# From here on a run that ends early, or the one after it, puts the former release back.
begin_swap() {
    [ -z "$dry" ] && [ -n "$built" ] || return 0
    if works $VENV; then
        keep_files $VENV
        # Another machine of the site may have migrated the catalog before: then it is not this one's to put back.
        {
            running_release
            echo "$built"
            ! grep -q '^tried the migration' "$work/tried" 2>/dev/null || echo migrates
        } >$SWAP.new
        mv $SWAP.new $SWAP
        swapping=yes
    fi
    stop
    [ -e $SWAP ] || point_to "$built"
}

end_swap() {
    if [ ! -e $SWAP ]; then
        built=''
        return 0
    fi
    run ln -sfn "$(sed -n 1p $SWAP)" $FORMER
    run rm $SWAP
    built='' swapping=''
    for folder in "$RELEASES"/*; do
        case $folder in
            "$(readlink $VENV)" | "$(readlink $FORMER)" | "$FORMER") ;;
            *) run rm -r "$folder" ;;
        esac
    done
}

# go_back WHY: puts the release that $SWAP names back, with its units and its catalog, and starts it.
go_back() {
    former=$(sed -n 1p $SWAP) programs=$(sed -n 2p $SWAP)
    systemctl stop 'cbk*'
    if grep -qx migrates $SWAP && ! as_cbk upgrade --rollback --to "$(revision_needed "$(folder_of "$former")")" >"$work/rolled" 2>&1; then
        cat "$work/rolled" >&2
        printf 'install.sh: the catalog is not put back yet\nHINT: what is said above comes first; then %s --rollback\n' "$0" >&2
        cp $SWAP $SWAP.again
    fi
    put_back_files "$(folder_of "$former")"
    [ ! -d "$former" ] || [ "$(readlink $VENV)" = "$former" ] || point_to "$former" >/dev/null
    [ "$(readlink $FORMER)" != "$former" ] || rm -f $FORMER
    programs=$VENV
    # The catalog is as it was before the other release ran: what that did is on the disk.
    if grep -qx started $SWAP && grep -q again "$work/rolled" 2>/dev/null && ! as_cbk rebuild >"$work/rebuilt" 2>&1; then
        say "WARNING: what came since is not all known; \`sudo cbk rebuild\` takes it in"
    fi
    systemctl daemon-reload
    systemctl restart cbk.target
    if [ -e $SWAP.again ]; then mv $SWAP.again $SWAP; else rm $SWAP; fi
    swapping=''
    # shellcheck disable=SC2046 # names of units, apart by blanks
    if run_all $(enabled_units); then
        printf 'install.sh: %s; the former release runs again\n' "$1" >&2
    else
        printf 'install.sh: %s; the former release is back, but not all of it runs\nHINT: %s\n' "$1" \
            "\`systemctl list-units 'cbk*'\` shows what does not, and \`journalctl -u UNIT\` why" >&2
        return 1
    fi
}

# Where the release of this folder is now: one of before there were folders may not have moved into its own yet.
folder_of() {
    if [ -d "$1" ]; then
        echo "$1"
    else
        echo $VENV
    fi
}

enabled_units() {
    for unit in "$WANTED"/cbk-*.service; do
        [ ! -L "$unit" ] || printf '%s\n' "${unit##*/}"
    done
}

run_all() {
    for unit in "$@"; do
        systemctl -q is-active "$unit" || return 1
    done
}

# However a run ends: a swap that did not come to its end is taken back, and programs that nobody uses go.
ended() {
    status=$?
    set +e
    trap '' INT TERM HUP PIPE
    if [ -n "$swapping" ]; then
        go_back "the upgrade failed"
    elif [ -n "$built" ] && [ "$(readlink $VENV)" != "$built" ] && works $VENV; then
        printf 'install.sh: the upgrade failed before anything was stopped; the former release runs on\n' >&2
    fi
    if [ -n "$built" ] && [ ! -e $SWAP ] && [ "$(readlink $VENV)" != "$built" ]; then
        rm -rf "$built"
    fi
    rm -rf "$work"
    exit $status
}

# After a run that was killed while services were stopped.
heal() {
    [ -e $SWAP ] || return 0
    if [ -n "$dry" ]; then
        say "would: put back the former release, since an upgrade was cut off"
    else
        go_back "an upgrade was cut off" || fail "it has to run before there is another one" "what is said above comes first; then $0 again"
        changed=yes
    fi
}

rollback() {
    heal
    [ -z "$changed" ] || return 0
    hint="\`git checkout\` the release that you want, then $0 --upgrade"
    [ -L $FORMER ] || fail "there is no former release on this machine" "$hint"
    works $FORMER || fail "the former release does not run" "$hint"
    revision=$(revision_needed $FORMER)
    migrates=''
    if [ "$revision" != "$(revision_needed $VENV)" ] && [ "$(cat "$ROLE" 2>/dev/null)" != joined ]; then
        migrates=migrates
        as_cbk upgrade --rollback --to "$revision" --dry-run || fail "nothing was changed" "what is said above comes first"
    fi
    if [ -n "$dry" ]; then
        say "would: stop, put back the release in $(readlink $FORMER), and start"
        return 0
    fi
    printf '%s\n' "$(readlink $FORMER)" "$(running_release)" $migrates started >$SWAP.new
    mv $SWAP.new $SWAP
    swapping=yes
    go_back "rolled back"
}

# As an ordinary command it runs as the kit's user: what root would make on the disk is in the workers' way.
install_command() {
    put 755 $COMMAND <<EOF
#!/bin/sh
# cbk as the user of its services; only \`cbk setup\` is root's. Written by scripts/install.sh.
[ -z "\${_CBK_COMPLETE-}" ] || exec $VENV/bin/cbk "\$@" # what completes a command reads no settings
case "\${1-}:\${3-}" in
    setup:* | --config:setup) exec $VENV/bin/cbk "\$@" ;;
esac
case \$(id -un) in
    cbk) exec $VENV/bin/cbk "\$@" ;;
    root) HOME=/var/lib/cbk exec runuser -u cbk -- $VENV/bin/cbk "\$@" ;;
esac
echo "cbk: only root and the kit's own user may read its settings" >&2
echo "HINT: sudo cbk \$*" >&2
exit 1
EOF
}

# For whoever sits at a terminal: man pages, and completion for each shell. Two dozen files, which are not named one by one.
install_pages() {
    if [ -n "$dry" ]; then
        say "would: write man pages and completion below $SHARE"
        return 0
    fi
    $VENV/bin/python -I "$here/man_pages.py" "$work/man"
    for page in "$work"/man/*; do
        put 644 "$SHARE/man/man1/${page##*/}" <"$page"
    done >/dev/null
    while read -r shell place; do
        _CBK_COMPLETE=${shell}_source $VENV/bin/cbk >"$work/completion"
        put 644 "$SHARE/$place" <"$work/completion"
    done >/dev/null <<EOF
bash bash-completion/completions/cbk
zsh zsh/site-functions/_cbk
fish fish/vendor_completions.d/cbk.fish
EOF
}

settle() {
    [ -d "${CONFIG%/*}" ] || run install -d -o root -g cbk -m 750 "${CONFIG%/*}"
    # Before the settings: where those are, the role is too.
    put 644 "$ROLE" <<EOF
$role
EOF
    if [ -e $CONFIG ]; then
        [ -z "$answers" ] || say "keeping $CONFIG: \`cbk setup\` changes it"
    elif [ -n "$dry" ]; then
        say "would: ${answers:+take the answers of $answers and }write $CONFIG"
    else
        changed=yes
        : >"$UNPREPARED"
        "$programs/bin/cbk" setup ${answers:+--answers "$answers"}
    fi
}

prepare_disk() {
    # A fresh file system belongs to root.
    if [ "$(stat -c %U "$root")" = root ] && [ ! -e "$root/.cbk" ]; then
        mountpoint -q "$root" || [ -z "$(ls -A "$root")" ] ||
            fail "$root is neither a disk of its own nor empty" "mount the backup disk there, or name another folder: $programs/bin/cbk setup"
        run chown cbk:cbk "$root"
    fi
    # Settings that were there before belong to a disk that was prepared: where that is not mounted, nothing is made in its place.
    if [ -n "$had_settings" ] && [ ! -e "$UNPREPARED" ]; then
        as_cbk upgrade || fail "the backup disk or the catalog is not as it was left" "what it says above comes first; then $0 again"
    else
        as_cbk init
        rm -f "$UNPREPARED"
    fi
    as_cbk doctor || say "WARNING: what failed above needs somebody; \`sudo cbk doctor\` looks again"
}

# quoted PATH: for a unit file.
quoted() {
    printf '"%s"' "$1" | sed 's/%/%%/g'
}

install_units() {
    for unit in "$here"/systemd/*; do
        put 644 "$UNITS/${unit##*/}" <"$unit"
    done
    writable=$(quoted "$root")
    case $catalog in
        "sqlite:///$root"/* | '') ;;
        sqlite:///*) writable="$writable $(quoted "$(dirname "${catalog#sqlite:///}")")" ;;
    esac
    place=$(findmnt -n -o TARGET --target "$root" || echo /)
    mount=$(systemd-escape --path --suffix=mount "$place")
    if [ "$place" != / ] && ! findmnt -n --fstab --mountpoint "$place" >/dev/null; then
        say "WARNING: $place is not in /etc/fstab: after a restart of this machine nobody mounts it, and nothing is backed up"
    fi
    # Not CBK_CONCURRENCY: the environment goes before the settings file, where that is the operator's to set.
    put 644 "$UNITS/cbk-worker@.service.d/workers.conf" <<EOF
# How many workers run here and share the downloads. Written by scripts/install.sh, which has to be run again when that changes.
[Service]
Environment=CBK_WORKERS=$(sharing)
EOF
    # A disk that is plugged in late, or again, starts the workers.
    put 644 "$UNITS/cbk-worker@.service.d/disk.conf" <<EOF
# Where the copies are, from $CONFIG. Written by scripts/install.sh, which has to be run again when that changes.
[Unit]
RequiresMountsFor=$(quoted "$root")

[Service]
ReadWritePaths=$writable

[Install]
WantedBy=$mount
EOF
}

# Each by its name: of what stops with the target, systemctl does not wait for the end.
stop() {
    if systemctl list-units --no-legend 'cbk*' | grep -q .; then
        run systemctl stop 'cbk*'
    fi
}

# How many workers for a machine that had none yet. One is one Python process, which does not fill two processors with small files.
default_workers() {
    memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)
    if [ "$(nproc)" -ge 2 ] && [ "${memory:-0}" -ge $ROOM_FOR_TWO ]; then
        echo 2
    else
        echo 1
    fi
}

enabled_workers() {
    for unit in "$WANTED"/cbk-worker@*.service; do
        [ ! -L "$unit" ] || printf '%s\n' "${unit##*/}"
    done
}

# Whether somebody may have chosen already what runs here.
has_units() {
    for unit in "$WANTED"/cbk-*.service; do
        [ ! -L "$unit" ] || return 0
    done
    return 1
}

# Sets `role` and `workers`, before anything of what they depend on is changed. `workers` stays empty where those that are enabled stay.
decide() {
    role=''
    [ ! -e "$CONFIG" ] || role=$(cat "$ROLE" 2>/dev/null || true)
    if [ -n "$join" ]; then
        role=joined
    elif [ -z "$role" ]; then
        # Former releases noted no role: a machine that has units but no beat had joined another one.
        role=first
        ! has_units || [ -L "$WANTED/cbk-beat.service" ] || role=joined
    fi
    case $role in
        first | joined) ;;
        *) fail "$ROLE says $role" "write first there, or joined where beat runs on another machine" ;;
    esac
    if [ -e "$UNFINISHED" ]; then
        changed=yes
        workers=${workers:-$(cat "$UNFINISHED")}
    fi
    [ -n "$workers" ] || has_units || workers=$(default_workers)
}

# The workers of this machine, one a line.
workers_here() {
    if [ -n "$workers" ]; then
        seq -f 'cbk-worker@%g.service' "$workers"
    else
        enabled_workers
    fi
}

# How many of them share the downloads. One whose name is no number is somebody's own, and may have another purpose.
sharing() {
    count=$(workers_here | grep -c '@[0-9]*\.service$' || true)
    echo $((count > 1 ? count : 1))
}

# Those above the number that was asked for, one a line. One whose name is no number stays as it is.
workers_too_many() {
    [ -n "$workers" ] || return 0
    for unit in $(enabled_workers); do
        number=${unit#cbk-worker@}
        number=${number%.service}
        case $number in
            *[!0-9]*) ;;
            *) [ "$number" -le "$workers" ] || printf '%s\n' "$unit" ;;
        esac
    done
}

# What starts the workers with another disk than now. Not with the one command that systemctl has for that: that of systemd 252 forgets
# instances and drop-ins.
forget_former_disks() {
    for link in "$UNITS"/*.mount.wants/cbk-worker@*.service; do
        case $link in
            "$UNITS/$mount.wants"/*) ;;
            */cbk-worker@*[!0-9]*.service) ;; # somebody's own
            *) [ ! -L "$link" ] || run rm "$link" ;;
        esac
    done
}

# enable_units UNIT...: these start with the machine, and those that are too many no more. What is enabled is what the next run keeps:
# so nothing is disabled before all that stays is enabled, and a number that was asked for is noted before.
enable_units() {
    surplus=$(workers_too_many)
    [ -z "$surplus" ] || changed=yes
    for unit in "$@"; do
        [ -n "$changed" ] || systemctl -q is-enabled "$unit" 2>/dev/null || changed=yes
    done
    [ -n "$changed" ] || return 0
    echo "$workers" | put 644 "$UNFINISHED"
    run systemctl -q enable "$@"
    forget_former_disks
    # shellcheck disable=SC2086 # names of units, apart by blanks
    [ -z "$surplus" ] || run systemctl -q disable --now $surplus
}

start() {
    units=$(workers_here)
    if [ "$role" = first ]; then
        units="$units $FIRST"
    else
        say "this machine has joined another one: beat, Flower and the page are left to that, unless $ROLE says first"
        for unit in $FIRST; do
            [ ! -L "$WANTED/$unit" ] || say "$unit is enabled here all the same; to end it: systemctl disable --now $unit"
        done
    fi
    # shellcheck disable=SC2086 # names of units, apart by blanks
    enable_units cbk.target $units
    if [ -n "$changed" ]; then
        run systemctl daemon-reload
        [ ! -e "$SWAP" ] || echo started >>"$SWAP"
        run systemctl restart cbk.target
        run rm -f "$UNFINISHED"
    elif [ -z "$dry" ]; then
        systemctl start cbk.target
    fi
    [ -z "$dry" ] || return 0
    for unit in $units; do
        systemctl -q is-active "$unit" || fail "$unit does not run" "journalctl -u $unit says why"
    done
    [ -e "$SWAP" ] || return 0
    sleep "$SETTLING_SECONDS"
    for unit in $units; do
        case $(systemctl show --value --property ActiveState --property NRestarts "$unit" | sort | tr -d '\n') in
            0active) ;;
            *) fail "$unit started, and ended at once" "journalctl -u $unit says why" ;;
        esac
    done
}

uninstall() {
    stop
    for unit in "$UNITS"/cbk.target.wants/cbk* "$UNITS"/multi-user.target.wants/cbk.target; do
        [ ! -L "$unit" ] || run systemctl -q disable "${unit##*/}"
    done
    for file in "$UNITS"/cbk-*.service "$UNITS"/cbk-*.service.d "$UNITS"/cbk.target $COMMAND \
        $SHARE/man/man1/cbk.1 "$SHARE"/man/man1/cbk-*.1 $SHARE/bash-completion/completions/cbk \
        $SHARE/zsh/site-functions/_cbk $SHARE/fish/vendor_completions.d/cbk.fish; do
        if [ -e "$file" ] || [ -L "$file" ]; then
            run rm -r "$file"
        fi
    done
    if [ -e $VENV/cbk-bootstrap.json ]; then
        run rm -r $VENV
    fi
    [ ! -d $RELEASES ] || run rm -r $RELEASES
    [ -z "$changed" ] || run systemctl daemon-reload
    say "the kit's programs are gone; these stay, and are yours to remove:"
    [ ! -e $CONFIG ] || say "  $(setting $CONFIG backup_root /backups)  the copies and the catalog; $(setting $CONFIG backup_root /backups)/.cbk/README.txt says how to restore"
    [ ! -e $CONFIG ] || say "  ${CONFIG%/*}  the settings, with passwords"
    ! getent passwd cbk >/dev/null || say "  the user cbk, to whom the copies belong"
    ! command -v redis-server valkey-server >/dev/null || say "  Redis or Valkey"
}

# ---- in order -------------------------------------------------------------------------------------------------------------------

if [ $mode = uninstall ]; then
    uninstall
    exit 0
fi
[ $mode = install ] || [ -e $CONFIG ] || fail "there is nothing to upgrade" "$0 installs it"

work=$(mktemp -d)
trap ended EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
if [ $mode = rollback ]; then
    rollback
    exit 0
fi
heal

if [ -n "$join" ]; then
    redis=''
    answers=$work/answers.toml
    if [ -f "$join" ]; then
        cp "$join" "$answers"
    else
        say "asking $join for its settings"
        ssh "$join" sudo cbk setup --export - >"$answers" || fail "$join gave no settings" "try \`ssh $join sudo cbk setup --export -\`"
    fi
fi
# A broker elsewhere needs none here.
settings=$answers
[ ! -e $CONFIG ] || settings=$CONFIG
[ -z "$settings" ] || ! command -v python3 >/dev/null || case $(setting "$settings" broker_url redis://127.0.0.1) in
    *://127.* | *@127.* | *localhost* | *socket* | *'[::1]'*) ;;
    *) redis='' ;;
esac

had_settings=''
[ ! -e $CONFIG ] || had_settings=yes
decide
install_packages
[ -z "$join" ] || root=$(setting "$answers" backup_root /backups)
make_user
build_programs
check_programs
begin_swap
settle
if [ -e $CONFIG ]; then
    root=$(setting $CONFIG backup_root /backups)
    catalog=$(setting $CONFIG catalog_url '')
    [ -n "$dry" ] || prepare_disk
    [ ! -e "$SWAP" ] || point_to "$built"
    programs=$VENV
    install_command
    install_pages
    install_units
    start
    end_swap
elif [ -n "$dry" ]; then
    install_command
    install_pages
    start
fi
if [ -z "$changed" ]; then
    say "everything was in place; nothing was changed"
elif [ -z "$dry" ]; then
    [ ! -L $FORMER ] || say "the former release is kept: $0 --rollback goes back to it"
    say "the kit runs: \`sudo cbk status\` says what is protected, \`journalctl -u 'cbk*' -f\` what it does"
fi
