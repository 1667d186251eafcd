#!/bin/bash
# A Slurm cluster of two nodes, both of them this machine, on loopback, in a scratch folder.
#
#   slurm.sh start DIR     munged, slurmctld and two slurmd; then: export SLURM_CONF=DIR/slurm.conf
#   slurm.sh stop DIR      all of them, by their pid files
#
# Each claims 16 CPUs, 64 GB and 8 GPUs that nobody looks for. Their names do not resolve: a step over both needs
# MASTER_ADDR=127.0.0.1.
#
# Needs root and Debian's slurm-wlm and munge. DIR is absolute and short: it holds a socket.
set -eu
action=$1 dir=$2

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

cancel_jobs() { # or their steps would outlive the daemons
  export SLURM_CONF="$dir/slurm.conf"
  scancel --state=PENDING --user="$(id -un)" || return 0
  scancel --signal=KILL --full --user="$(id -un)" || return 0
  for _ in $(seq 200); do
    [ -n "$(squeue --noheader 2>/dev/null)" ] || return 0
    sleep 0.1
  done
  squeue >&2
}

stop() {
  [ ! -s "$dir/slurmctld.pid" ] || cancel_jobs
  for daemon in slurmd-one slurmd-two slurmctld munged; do
    [ -s "$dir/$daemon.pid" ] || continue
    pid=$(cat "$dir/$daemon.pid")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 100); do
      [ -d "/proc/$pid" ] && grep -qv '^State:\sZ' <(grep ^State "/proc/$pid/status") || break
      sleep 0.1
    done
    [ ! -d "/proc/$pid" ] || kill -9 "$pid" 2>/dev/null || true
  done
}

start() {
  mkdir -p "$dir"/{munge,state,spool/one,spool/two}
  # munged refuses a key that others could have written, and to run as root.
  chmod 755 "$dir"
  dd if=/dev/urandom of="$dir/munge/key" bs=128 count=1 status=none
  chmod 600 "$dir/munge/key"
  chmod 755 "$dir/munge"
  chown -R munge: "$dir/munge"
  setpriv --reuid munge --regid munge --clear-groups munged --key-file "$dir/munge/key" \
    --socket "$dir/munge/socket" --pid-file "$dir/munge/pid" --log-file "$dir/munge/log" \
    --seed-file "$dir/munge/seed"
  ln -s munge/pid "$dir/munged.pid"

  host=$(hostname)
  cat >"$dir/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
SlurmctldPort=$(free_port)
SlurmdParameters=config_overrides
GresTypes=gpu
MailProg=/bin/true
KillWait=30
ReturnToService=2
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=16 RealMemory=64000 Gres=gpu:8
NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=16 RealMemory=64000 Gres=gpu:8
PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE
CONF
  touch "$dir"/gpu{0..7}
  echo "Name=gpu File=$dir/gpu[0-7]" >"$dir/gres.conf"
  export SLURM_CONF="$dir/slurm.conf"
  slurmctld
  slurmd -N one
  slurmd -N two
  for _ in $(seq 200); do
    [ "$(sinfo --noheader --format '%D %T' 2>/dev/null)" != '2 idle' ] || return 0
    sleep 0.1
  done
  echo "the nodes did not become idle" >&2
  tail -n 20 "$dir"/*.log >&2
  stop
  return 1
}

"$action"
