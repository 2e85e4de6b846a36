#!/usr/bin/env bash
# A Ceph on loopback (one monitor, one store, one S3 gateway): a second real S3 server to test storage against.
#
#   apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common     (Debian 12: Ceph 16.2)
#   bash cluster/lab/ceph.sh up /var/tmp/raygseg-ceph        prints the variables that the tests want
#   bash cluster/lab/ceph.sh down /var/tmp/raygseg-ceph
#
#   told=$(bash cluster/lab/ceph.sh up /var/tmp/raygseg-ceph) && env $told bash tests/run.sh unit -k s3
#
# Ceph 16 ignores If-None-Match on multipart uploads and gets If-Match wrong: raygseg uses neither. It refuses the
# checksums that newer clients send behind a body; raygseg switches those off (AWS_REQUEST_CHECKSUM_CALCULATION).
set -euo pipefail

verb=${1:-} folder=${2:-/var/tmp/raygseg-ceph}
mon=13300 port=17480

ended() {
    for file in "$folder"/*.pid; do
        # Nothing of it is kept, so nothing has to be closed well; what still ran would write into a folder that is gone.
        [ -f "$file" ] && kill -9 "$(cat "$file")" 2>/dev/null || true
    done
}

# start NAME COMMAND...: in the background, its process id in FOLDER/NAME.pid
start() {
    local name=$1
    shift
    setsid "$@" >"$folder/$name.out" 2>&1 </dev/null &
    echo $! >"$folder/$name.pid"
}

# until_true WHAT SECONDS COMMAND...
until_true() {
    local what=$1 left=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$left" -gt 0 ] || { echo "$what did not come up; see $folder/*.out and $folder/log" >&2 && exit 1; }
        left=$((left - 1))
        sleep 1
    done
}

up() {
    [ ! -e "$folder" ] || { echo "$folder is there already: bash cluster/lab/ceph.sh down $folder" >&2 && exit 1; }
    for program in ceph-mon ceph-osd radosgw radosgw-admin ceph; do
        command -v $program >/dev/null || { echo "$program is not installed; see the head of this file" >&2 && exit 1; }
    done
    mkdir -p "$folder"/{mon,osd,rgw,log}
    chmod 700 "$folder"
    local fsid secret
    fsid=$(cat /proc/sys/kernel/random/uuid)
    secret=$(head -c 24 /dev/urandom | base64 | tr -dc 'a-zA-Z0-9')
    cat >"$folder/ceph.conf" <<CONF
[global]
fsid = $fsid
mon initial members = a
mon host = [v2:127.0.0.1:$mon]
ms bind ipv6 = false
keyring = $folder/keyring
log file = $folder/log/\$name.log
admin socket = $folder/\$name.asok
run dir = $folder
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
[mon.a]
mon data = $folder/mon
[osd.0]
osd data = $folder/osd
osd objectstore = bluestore
bluestore block size = 4294967296
osd memory target = 1000000000
[client.rgw.lab]
rgw data = $folder/rgw
rgw frontends = beast endpoint=127.0.0.1:$port
rgw thread pool size = 32
CONF
    export CEPH_CONF="$folder/ceph.conf"
    local ring="$folder/keyring"
    ceph-authtool --create-keyring "$ring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
    ceph-authtool "$ring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
    ceph-authtool "$ring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' >/dev/null
    ceph-authtool "$ring" --gen-key -n client.rgw.lab --cap mon 'allow rw' --cap osd 'allow rwx' >/dev/null
    monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon]" "$folder/monmap" >/dev/null
    ceph-mon -c "$CEPH_CONF" --mkfs -i a --monmap "$folder/monmap" --keyring "$ring"
    start mon ceph-mon -c "$CEPH_CONF" -f -i a
    until_true "the monitor" 60 ceph -c "$CEPH_CONF" --connect-timeout 2 -s
    ceph-osd -c "$CEPH_CONF" -i 0 --mkfs --osd-uuid "$(cat /proc/sys/kernel/random/uuid)" >/dev/null 2>&1
    ceph -c "$CEPH_CONF" osd new "$(cat "$folder/osd/fsid")" 0 >/dev/null 2>&1 || true
    start osd ceph-osd -c "$CEPH_CONF" -f -i 0
    until_true "the store" 90 sh -c "ceph -c '$CEPH_CONF' osd stat | grep -q '1 up'"
    start rgw radosgw -c "$CEPH_CONF" -f -n client.rgw.lab
    until_true "the gateway" 120 curl -s -o /dev/null "http://127.0.0.1:$port"
    radosgw-admin -c "$CEPH_CONF" -n client.rgw.lab user create --uid=lab --display-name=lab \
        --access-key=lab --secret-key="$secret" >/dev/null 2>&1
    echo "RAYGSEG_TEST_S3=http://127.0.0.1:$port"
    echo "AWS_ACCESS_KEY_ID=lab"
    echo "AWS_SECRET_ACCESS_KEY=$secret"
}

case $verb in
up) up ;;
down) ended && rm -rf "$folder" ;;
*) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
