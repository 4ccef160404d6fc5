# shellcheck shell=bash
# What the scripts share: they set up an engine, a test image, compose and Rust. Sourced, never run.
#
# Each `ensure_` function returns once its thing is there, or ends the script and says what to type. It installs
# something only as root on Debian or Ubuntu, and only if it is missing. Nothing reads standard input.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export VOLSNAP_TEST_IMAGE=${VOLSNAP_TEST_IMAGE:-volsnap-test/postgres:15}
export VOLSNAP_TEST_IMAGE_70=${VOLSNAP_TEST_IMAGE_70:-volsnap-test/postgres:15-uid70}
export VOLSNAP_TEST_STORES=${VOLSNAP_TEST_STORES:-volsnap-test/stores:1}
export VOLSNAP_TEST_IMAGE_17=${VOLSNAP_TEST_IMAGE_17:-volsnap-test/postgres:17}
# The number is that of the recipe: raise it when fixtures/engine26/build makes something else.
export VOLSNAP_TEST_ENGINE26=${VOLSNAP_TEST_ENGINE26:-${XDG_CACHE_HOME:-$HOME/.cache}/volsnap-test/engine26-1}
export VOLSNAP_TEST_COMPOSE2=${VOLSNAP_TEST_COMPOSE2:-$VOLSNAP_TEST_ENGINE26/tree/usr/libexec/docker/cli-plugins/docker-compose}
# The number is that of what is in it: raise it with a version.
export VOLSNAP_TEST_S3=${VOLSNAP_TEST_S3:-${XDG_CACHE_HOME:-$HOME/.cache}/volsnap-test/s3-1}

# --- messages: standard output is for results, so all of this goes to standard error

if [[ -t 2 && -z ${NO_COLOR:-} ]]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

# Prints that a step begins.
say() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }
# Prints a detail of the step.
note() { printf '%s    %s%s\n' "$DIM" "$*" "$PLAIN" >&2; }
# Prints that something went well.
good() { printf '%s    ✓ %s%s\n' "$GREEN" "$*" "$PLAIN" >&2; }
# Ends the script: prints what failed, and what to do about it.
die() {
    printf '%serror: %s%s\n' "$RED" "$1" "$PLAIN" >&2
    shift
    local hint
    for hint; do printf '       %s\n' "$hint" >&2; done
    exit 1
}

# What a script says of itself: the comment that it begins with.
show_help() { sed -n '2,/^set/s/^# \{0,1\}//p' "$1"; }

have() { command -v "$1" >/dev/null 2>&1; }

# --- packages

# Whether we may install: as root, on Debian or a derivative.
can_install() { [[ $(id -u) = 0 ]] && have apt-get; }

# install_packages PACKAGE…: installs with apt; refreshes its lists only if the first attempt fails.
install_packages() {
    note "installing: $*"
    local -a install=(apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "$@")
    DEBIAN_FRONTEND=noninteractive "${install[@]}" </dev/null >/dev/null 2>&1 && return
    apt-get update -q -o DPkg::Lock::Timeout=300 </dev/null >&2 || true
    DEBIAN_FRONTEND=noninteractive "${install[@]}" </dev/null >&2
}

# ensure_commands COMMAND[:PACKAGE]…: installs the package of every command that is missing.
ensure_commands() {
    local item
    local -a packages=()
    for item; do
        have "${item%%:*}" || packages+=("${item##*:}")
    done
    ((${#packages[@]})) || return 0
    can_install || die "missing: ${packages[*]}" "Install these packages and run this again, or run it as root on Debian or Ubuntu."
    install_packages "${packages[@]}" || die "cannot install ${packages[*]}"
}

# --- the engine

engine_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# wait_for_engine SECONDS
wait_for_engine() {
    local deadline=$((SECONDS + $1))
    until engine_answers; do
        ((SECONDS < deadline)) || return 1
        sleep 0.3
    done
}

start_engine() {
    if [[ -d /run/systemd/system ]] && have systemctl; then
        note "starting the engine: systemctl start docker"
        systemctl start docker >&2 </dev/null && wait_for_engine 30 && return
    fi
    if [[ -x /etc/init.d/docker ]] && have service; then
        note "starting the engine: service docker start"
        service docker start >&2 </dev/null && wait_for_engine 30 && return
    fi
    note "starting the engine: dockerd, its log is /var/log/dockerd.log"
    # It outlives this script, and the next one finds it running. The lock of a caller must not outlive us with it.
    setsid dockerd >>/var/log/dockerd.log 2>&1 </dev/null 9>&- &
    wait_for_engine 60
}

# Reachable: use it. Installed and we are root: start it. Debian or Ubuntu and root: install it.
ensure_engine() {
    if have docker && engine_answers; then return; fi
    if [[ -n ${DOCKER_HOST:-} ]]; then
        die "the engine at DOCKER_HOST=$DOCKER_HOST does not answer" "Try: docker -H '$DOCKER_HOST' version"
    fi
    if ! have docker || ! have dockerd; then
        can_install || die "Docker is not installed" \
            "Install it (https://docs.docker.com/engine/install/), or run this as root on Debian or Ubuntu."
        say "Installing the Docker engine"
        install_packages docker.io || die "cannot install docker.io" "Try: apt-get install docker.io"
        # Newer releases have the command in a package of its own.
        have docker || install_packages docker-cli || die "cannot install docker-cli"
        if engine_answers; then return; fi
    fi
    [[ $(id -u) = 0 ]] || die "the Docker engine does not answer" \
        "Start it: sudo systemctl start docker" \
        "or, if it runs, let this user reach it: sudo usermod -aG docker $(id -un)"
    say "Starting the Docker engine"
    (exec 9>/run/volsnap-engine.lock && flock 9 && { engine_answers || start_engine; }) ||
        die "the Docker engine does not start" "See: journalctl -u docker, or /var/log/dockerd.log"
}

# compose ARGUMENT…: runs whichever compose is installed.
compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    else
        docker-compose "$@"
    fi
}

ensure_compose() {
    if docker compose version >/dev/null 2>&1 || have docker-compose; then return; fi
    can_install || die "neither 'docker compose' nor 'docker-compose' is installed" \
        "Install the compose plugin: https://docs.docker.com/compose/install/"
    say "Installing docker-compose"
    install_packages docker-compose || install_packages docker-compose-v2 || die "cannot install docker-compose"
}

# --- the test image

image_present() { docker image inspect "$1" >/dev/null 2>&1; }

# Present: use it. Else the official one, if a registry answers soon. Else build it from Debian packages.
ensure_image() {
    ensure_engine
    if image_present "$VOLSNAP_TEST_IMAGE" && image_present "$VOLSNAP_TEST_IMAGE_70"; then return; fi
    "$ROOT/fixtures/postgres/build" || die "no test image" "Build it: sudo $ROOT/fixtures/postgres/build"
}

# The image with other stores in it, for tests.
ensure_stores() {
    ensure_image
    if image_present "$VOLSNAP_TEST_STORES"; then return; fi
    "$ROOT/fixtures/stores/build" || die "no image of other stores" "Build it: sudo $ROOT/fixtures/stores/build"
}

# A newer engine with Compose 2 beside the machine's own, for tests, and a newer PostgreSQL on it. Only root can make and
# run it, and only where namespaces are allowed; elsewhere the tests of it say that they check nothing.
ensure_engine26() {
    if [[ -d $VOLSNAP_TEST_ENGINE26 ]]; then return; fi
    if [[ $(id -u) != 0 ]] || ! unshare --mount --net --ipc --uts --pid --fork true 2>/dev/null; then
        note "no newer engine: only root can make one (sudo fixtures/engine26/build), and needs namespaces for it"
        return
    fi
    "$ROOT/fixtures/engine26/build" || die "no newer engine" "Make it: sudo $ROOT/fixtures/engine26/build"
}

# A server that speaks as S3 does, for tests: moto, in an environment of its own. The tests start it themselves, each on a
# port of its own.
ensure_s3() {
    if [[ -x $VOLSNAP_TEST_S3/bin/moto_server ]]; then return; fi
    ensure_commands python3:python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || ensure_commands python3-venv-is-missing:python3-venv
    say "Installing an S3 server for tests (once)"
    (mkdir -p "$(dirname "$VOLSNAP_TEST_S3")" && exec 9>"$VOLSNAP_TEST_S3.lock" && flock 9 &&
        { [[ -x $VOLSNAP_TEST_S3/bin/moto_server ]] ||
            { rm -rf "$VOLSNAP_TEST_S3" && python3 -m venv "$VOLSNAP_TEST_S3" &&
                "$VOLSNAP_TEST_S3/bin/pip" install --quiet --disable-pip-version-check 'moto[server]==5.2.5' </dev/null >&2; }; }) ||
        die "no S3 server for tests" "Make it: python3 -m venv $VOLSNAP_TEST_S3 && $VOLSNAP_TEST_S3/bin/pip install 'moto[server]==5.2.5'"
}

# An sshd and a WebDAV server for tests, which start them themselves, each on a port of its own. An sshd that the system
# would start at once is nobody's to install; the tests of SFTP then say that they check nothing.
ensure_sshd() {
    if [[ -x /usr/sbin/sshd ]]; then return; fi
    if ! can_install || [[ -d /run/systemd/system ]]; then
        note "no sshd: the tests of SFTP check nothing (apt-get install openssh-server)"
        return
    fi
    # At this level the package starts nothing.
    RUNLEVEL=1 install_packages openssh-server openssh-client || die "cannot install openssh-server"
}

ensure_webdav() {
    if have rclone; then return; fi
    if ! can_install; then
        note "no rclone: the tests of WebDAV check nothing (apt-get install rclone)"
        return
    fi
    install_packages rclone || die "cannot install rclone"
}

# --- Rust

# The sources of the program itself, without files of tests.
source_files() {
    find src -name '*.rs' ! -name 'tests.rs' ! -name '*_tests.rs' ! -name 'samples.rs' ! -path '*/tests/*' | sort
}

# The first rules of an awk program that is to see code only: no comments, and nothing under #[cfg(test)].
# shellcheck disable=SC2034 # used by those who source this
ONLY_CODE='
    FNR == 1 { skipping = 0; pending = 0 }
    /^ *\/\// { next }
    skipping { if ($0 ~ ("^" indent "[})]")) skipping = 0; next }
    /^ *#\[cfg\(test\)\]/ { pending = 1; match($0, /^ */); indent = substr($0, 1, RLENGTH); next }
    pending && /^ *#\[/ { next }
    pending { pending = 0; if ($0 !~ /[;}] *$/) skipping = 1; next }
'

ensure_rust() {
    if ! have cargo && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    have cargo || die "cargo is not installed" \
        "Install Rust: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" "then open a new shell and run this again."
    ensure_commands cc:build-essential
}

ensure_nextest() {
    ensure_rust
    if have cargo-nextest; then return; fi
    say "Installing cargo-nextest (once; some minutes)"
    CARGO_TARGET_DIR=${TMPDIR:-/tmp}/volsnap-tools-target cargo install cargo-nextest --locked </dev/null >&2 ||
        die "cannot install cargo-nextest" "See https://nexte.st/docs/installation/"
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
}

# Prints the path of the volsnap to run: VOLSNAP_BIN, or a release build.
ensure_volsnap() {
    if [[ -n ${VOLSNAP_BIN:-} ]]; then
        have "$VOLSNAP_BIN" || die "VOLSNAP_BIN=$VOLSNAP_BIN cannot be run"
        realpath "$(command -v "$VOLSNAP_BIN")"
        return
    fi
    ensure_rust
    (cd "$ROOT" && cargo build --release --locked </dev/null >&2) || die "volsnap does not build"
    local target_dir=${CARGO_TARGET_DIR:-target}
    [[ $target_dir = /* ]] || target_dir=$ROOT/$target_dir
    printf '%s\n' "$target_dir/release/volsnap"
}

# --- campaigns

# The seed of whatever is random in a long run: given, or drawn, and always told.
ensure_seed() {
    export VOLSNAP_TEST_SEED=${VOLSNAP_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
    note "seed $VOLSNAP_TEST_SEED; the same again: VOLSNAP_TEST_SEED=$VOLSNAP_TEST_SEED"
}
