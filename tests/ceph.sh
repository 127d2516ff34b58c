#!/usr/bin/env bash
# Start a Ceph of one monitor, one OSD in memory and one radosgw; run a command against it; stop it.
#   tests/ceph.sh COMMAND...
# The command finds a server with real signatures in DSVL_TEST_S3_ENDPOINT and the AWS variables.
# Needs no root, no containers and no systemd, but Debian's packages:
#   apt-get install --no-install-recommends ceph-common ceph-mon ceph-osd radosgw
set -euo pipefail

for program in ceph ceph-mon ceph-osd ceph-authtool monmaptool radosgw radosgw-admin; do
	PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || {
		echo "tests/ceph.sh: found no $program; Debian has it in ceph-common, ceph-mon, ceph-osd and" \
			"radosgw: apt-get install --no-install-recommends ceph-common ceph-mon ceph-osd radosgw" >&2
		exit 2
	}
done

home=$(mktemp -d)
daemons=()
stop() {
	((${#daemons[@]})) && kill -KILL "${daemons[@]}" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$home"
}
trap stop EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
monitor=127.0.0.1:$(free_port)
gateway=127.0.0.1:$(free_port)
id=$(cat /proc/sys/kernel/random/uuid)
mkdir "$home"/{mon,osd,rgw}
export CEPH_CONF=$home/ceph.conf
cat >"$CEPH_CONF" <<END
[global]
fsid = $id
mon host = v1:$monitor
# From a file: a client that learns it from the monitor may ask before it has learnt the fsid.
monmap = $home/monmap
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
ms bind msgr2 = false
run dir = $home
admin socket = $home/\$name.sock
log file = $home/\$name.log
keyring = $home/keyring
mon data = $home/mon
osd data = $home/osd
rgw data = $home/rgw
osd objectstore = memstore
memstore device bytes = 2147483648
[client.rgw]
rgw frontends = beast endpoint=$gateway
rgw dns name = 127.0.0.1
END

# Again and again: a monitor that has only just started answers with EPERM or EINVAL.
ceph_quietly() {
	for _ in $(seq 30); do
		timeout 60 ceph "$@" >>"$home/start.log" 2>&1 && return
		sleep 1
	done
	return 1
}
explain() { echo "tests/ceph.sh: Ceph did not start; the end of its logs:" >&2; tail -n 15 "$home"/*.log >&2; exit 3; }

monmaptool --create --addv a "[v1:$monitor]" --fsid "$id" "$home/monmap" >/dev/null
ceph-authtool --create-keyring "$home/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
ceph-authtool "$home/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' >/dev/null
ceph-mon -i a --mkfs --monmap "$home/monmap" --keyring "$home/keyring"
ceph-mon -f -i a >>"$home/start.log" 2>&1 &
daemons+=($!)
osd=$(cat /proc/sys/kernel/random/uuid)
ceph_quietly osd new "$osd" 0 || explain
ceph-osd -i 0 --mkfs --osd-uuid "$osd" >>"$home/start.log" 2>&1 || explain
ceph-osd -f -i 0 >>"$home/start.log" 2>&1 &
daemons+=($!)
ceph_quietly osd crush add osd.0 1.0 root=default || explain
radosgw -f -n client.rgw >>"$home/start.log" 2>&1 &
daemons+=($!)

export AWS_ACCESS_KEY_ID=dsvl-test AWS_SECRET_ACCESS_KEY=a-key-for-tests-only
timeout 120 radosgw-admin user create --uid=dsvl --display-name=dsvl --max-buckets=0 \
	--access-key="$AWS_ACCESS_KEY_ID" --secret="$AWS_SECRET_ACCESS_KEY" >>"$home/start.log" 2>&1 || explain
for _ in $(seq 120); do
	if python3 -c "import urllib.request as u; u.urlopen('http://$gateway', timeout=5)" 2>/dev/null; then
		export DSVL_TEST_S3_ENDPOINT=http://$gateway
		echo "tests/ceph.sh: $(radosgw --version) at $DSVL_TEST_S3_ENDPOINT"
		"$@"
		exit
	fi
	sleep 0.5
done
explain
