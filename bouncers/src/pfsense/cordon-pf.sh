#!/bin/sh
# The one command that the key of cordon may run on this firewall.
# In authorized_keys:  restrict,command="/root/cordon-pf.sh cordon_ban" ssh-ed25519 AAAA...
# Asked for `add`, `delete`, `replace` or `kill`, it reads addresses, one a line; `show` and `stats` read nothing.
set -u
umask 077
PATH=/sbin:/bin:/usr/sbin:/usr/bin
export PATH
table=${1:-}
pfctl=${CORDON_PFCTL:-/sbin/pfctl}
case $table in
'' | *[!A-Za-z0-9_]*) echo 'the command in authorized_keys names no table' >&2; exit 64 ;;
esac

# Passes on what is made of the characters of addresses alone; anything else ends it before pfctl is asked.
addresses() {
	while IFS= read -r line || [ -n "$line" ]; do
		case $line in
		'') ;;
		-* | *[!0-9a-fA-F.:/]*) echo "no address: $line" >&2; return 65 ;;
		*[0-9a-fA-F]*) printf '%s\n' "$line" ;;
		*) echo "no address: $line" >&2; return 65 ;;
		esac
	done
}

# All of the input is checked before any of it counts.
checked() {
	input=$(addresses) || exit 65
}

case ${SSH_ORIGINAL_COMMAND:-} in
show) exec "$pfctl" -t "$table" -T show ;;
stats) exec "$pfctl" -vvsTables ;;
add | delete)
	checked
	[ -n "$input" ] || exit 0
	printf '%s\n' "$input" | "$pfctl" -t "$table" -T "$SSH_ORIGINAL_COMMAND" -f - ;;
replace)
	checked
	if [ -n "$input" ]; then
		printf '%s\n' "$input" | "$pfctl" -t "$table" -T replace -f -
	else
		"$pfctl" -t "$table" -T flush
	fi ;;
kill)
	checked
	for address in $input; do
		"$pfctl" -k "$address" || exit 70
	done ;;
*) echo 'expected add, delete, replace, show, stats or kill' >&2; exit 64 ;;
esac
