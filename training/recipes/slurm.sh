#!/usr/bin/env bash
# Every stage of a recipe on the GPUs of one or more nodes: sbatch training/recipes/slurm.sh DATA [RECIPE [RUNS]]
# Started again it goes on where it stopped; SIGTERM at the end of the time lets the step under way finish and saves.
#SBATCH --job-name=pass-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
data="$1"
recipe="${2:-training/recipes/8xh100.yaml}"
runs="${3:-runs}"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
for stage in netad reconstruction sampling finetune; do
    case "$stage" in finetune) name=reconstruction ;; *) name="$stage" ;; esac
    srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
        --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
        -m pass_recon_cli.main train "$name" --config "$recipe" --table "$stage" --data "$data" -o "$runs/$stage"
done
pass-recon train bundles --runs "$runs" -o "$runs/bundles" --recipe "$recipe"
