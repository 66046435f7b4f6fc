#!/bin/bash
# A search on the nodes of a Slurm job:  sbatch --export=ALL,CONFIG=my.yaml,RUN=/shared/runs/first slurm.sh
# Submitted again, or requeued after a node was lost, it goes on with the run. Options after the script go to Niwaki.
#SBATCH --job-name=niwaki
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=niwaki-%j.log
set -euo pipefail
: "${CONFIG:?a configuration file that all nodes see, or a name such as quickstart}"
: "${RUN:?a run folder on storage that outlives the job}"
[ -z "${VENV:-}" ] || . "$VENV/bin/activate"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

# Starts Ray on every node, runs the command on the first one, and stops Ray when it ends.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" -- \
    niwaki search "$CONFIG" --to "$RUN" --resume --address auto "$@"
