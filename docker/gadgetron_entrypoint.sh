#!/bin/sh
# A Gadgetron with the resident process beside it: started again when it dies, both ended by SIGTERM.
#
#   gadgetron_entrypoint.sh [ARGUMENT of gadgetron]...
set -u
stopping= resident= server=
stop() {
    stopping=1
    # shellcheck disable=SC2086 - an empty id is none
    kill -TERM $resident $server 2>/dev/null
}
trap stop TERM INT

gadgetron "$@" &
server=$!
(
    trap 'kill -TERM $child 2>/dev/null; exit 0' TERM
    while :; do
        pass-recon resident --metrics-port "${PASS_METRICS_PORT:-9102}" --metrics-host "${PASS_METRICS_HOST:-127.0.0.1}" &
        child=$!
        wait $child
        echo "the resident process ended with $?; it is started again" >&2
        sleep 1
    done
) &
resident=$!
wait $server
code=$?
if [ -n "$stopping" ]; then # the signal has ended the first wait, not the server
    wait $server
    code=$?
fi
kill -TERM $resident 2>/dev/null
wait $resident 2>/dev/null
exit $code
