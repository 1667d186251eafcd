#!/bin/bash
# Two "hosts" on one machine: network namespaces joined by a cable, one rank on each, torchrun between them.
#
#   two_hosts.sh PYTHON COMMAND...     PYTHON has torch; COMMAND is run on both. Needs root
#
# LOCAL_RANK is 0 on both hosts. The exit code is the first host's, or the second's if that of the first is 0.
set -u
python=$1
shift
red=red-$$ blue=blue-$$ pids=()

clean() {
  trap - EXIT INT TERM
  # torchrun passes SIGTERM on to its rank.
  [ ${#pids[@]} -eq 0 ] || { kill "${pids[@]}" 2>/dev/null; wait "${pids[@]}"; }
  ip netns delete "$red" 2>/dev/null
  ip netns delete "$blue" 2>/dev/null
}
trap clean EXIT
trap 'exit 143' INT TERM

ip netns add "$red" && ip netns add "$blue" || exit 99
# Names of devices have at most 15 characters; both ends leave this namespace at once.
ip link add "r$$" type veth peer name "b$$" || exit 99
ip link set "r$$" netns "$red" && ip link set "b$$" netns "$blue" || exit 99
ip -n "$red" address add 10.77.0.1/24 dev "r$$" && ip -n "$blue" address add 10.77.0.2/24 dev "b$$" || exit 99
for host in "$red r$$" "$blue b$$"; do
  read -r name device <<<"$host"
  ip -n "$name" link set lo up && ip -n "$name" link set "$device" up || exit 99
done

host() { # namespace, device, node rank, command
  local name=$1 device=$2 node=$3
  shift 3
  GLOO_SOCKET_IFNAME=$device exec ip netns exec "$name" "$python" -m torch.distributed.run \
    --nnodes 2 --node-rank "$node" --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29500 \
    --no-python "$@"
}
host "$red" "r$$" 0 "$@" & pids+=($!)
host "$blue" "b$$" 1 "$@" & pids+=($!)
wait "${pids[0]}"; first=$?
wait "${pids[1]}"; second=$?
pids=()
exit $((first ? first : second))
