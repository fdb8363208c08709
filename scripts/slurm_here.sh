#!/bin/bash
# A SLURM of one machine, for tests: a controller, a node with this machine's name, and munge, which they trust each
# other by. Everything is in one folder; nothing of the system's own SLURM is read or changed.
#
#     scripts/slurm_here.sh start [FOLDER]     # as root; does nothing if it is at work already
#     export SLURM_CONF=FOLDER/slurm.conf      # then sbatch, squeue, scontrol, srun and scancel are those of this SLURM
#     scripts/slurm_here.sh stop [FOLDER]      # cancels its jobs, ends its processes and removes the folder
#
# It needs the programs slurmctld, slurmd, munged and the commands of SLURM (Debian, Ubuntu: apt-get install slurmctld
# slurmd slurm-client munge). FOLDER is ${TMPDIR:-/tmp}/fastpde-slurm by default; its path must be short (sockets).
# Differences to a cluster: jobs may share the cores (the node claims 8, so that several small ones run at once), no
# control group limits a job, and a job that was put into the queue again waits 5 seconds there instead of 2 minutes.
set -euo pipefail
action=${1:-}
folder=${2:-${TMPDIR:-/tmp}/fastpde-slurm}
export SLURM_CONF=$folder/slurm.conf
host=$(hostname -s)

say() { echo "slurm_here: $*"; }

at_work() { [ -f "$SLURM_CONF" ] && timeout 20 scontrol ping 2>/dev/null | grep -q UP && node_is_up; }

node_is_up() { sinfo --noheader --format=%T 2>/dev/null | grep -Eq '^(idle|mixed|allocated|draining|drained)$'; }

written() {
    mkdir -p "$folder"/{munge,state,spool}
    chmod 755 "$folder" "$folder/munge"
    (umask 077 && dd if=/dev/urandom bs=1024 count=1 of="$folder/munge/key" status=none)
    cat >"$SLURM_CONF" <<END
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17617
SlurmdPort=17618
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2,batch_sched_delay=0
KillWait=20
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo) State=UNKNOWN
PartitionName=here Nodes=$host Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
END
}

start() {
    [ "$(id -u)" -eq 0 ] || { say "start needs root: the node starts jobs for their users"; exit 1; }
    for program in slurmctld slurmd munged sbatch; do
        command -v "$program" >/dev/null || { say "$program is not installed"; exit 1; }
    done
    if at_work; then say "at work already in $folder: export SLURM_CONF=$SLURM_CONF"; return; fi
    [ -d "$folder" ] && stop
    written
    say "starting munged, slurmctld and slurmd of $host in $folder"
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    for _ in $(seq 60); do
        if at_work; then say "at work: export SLURM_CONF=$SLURM_CONF"; return; fi
        sleep 0.5
    done
    say "it did not start; see the logs in $folder"
    for log in "$folder"/*.log; do tail -n 5 "$log"; done
    exit 1
}

stop() {
    [ -f "$SLURM_CONF" ] || { say "there is no $SLURM_CONF"; return; }
    if timeout 20 scontrol ping 2>/dev/null | grep -q UP; then
        timeout 20 scancel --user="$(id -un)" || true
        for _ in $(seq 60); do
            [ -z "$(timeout 20 squeue --noheader 2>/dev/null)" ] && break
            sleep 0.5
        done
    fi
    for file in slurmd.pid slurmctld.pid munge/pid; do
        [ -f "$folder/$file" ] && kill "$(<"$folder/$file")" 2>/dev/null || true
    done
    for _ in $(seq 40); do
        [ -f "$folder/slurmd.pid" ] || [ -f "$folder/slurmctld.pid" ] || [ -f "$folder/munge/pid" ] || break
        sleep 0.25
    done
    rm -rf "$folder"
    say "stopped; $folder is removed"
}

case $action in
start) start ;;
stop) stop ;;
*) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
