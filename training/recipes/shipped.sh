#!/usr/bin/env bash
# Everything that the shipped bundles come from, in one command: data, training, bundles, evaluation, cards.
# Started again it goes on where it stopped. Usage: make bundles OPEN_MS=<folder of the Open MS volumes>
set -euo pipefail
pass_recon="$BIN/pass-recon"
data="$RUNS/data"
volumes="$RUNS/volumes"

# Patient 12 is for validation, the two skull-stripped patients for the few-shot test: neither is ever trained on.
mkdir -p "$volumes/train" "$volumes/patient12" "$volumes/mni"
ln -sf "$(realpath "$OPEN_MS")"/patient0* "$volumes/train"
ln -sf "$(realpath "$OPEN_MS")"/patient12* "$volumes/patient12"
ln -sf "$(realpath "$OPEN_MS")"/mni* "$volumes/mni"

prepare() { "$pass_recon" train prepare "$@"; }
prepare --nifti "$volumes/train" --paint 3 --seed 1 --coils 10 --split 1 0 0 -o "$data/real"
prepare --nifti "$volumes/patient12" --coils 12 --split 0 0 1 -o "$data/patient12"
prepare --nifti "$volumes/mni" --coils 12 --split 0 0 1 -o "$data/mni"
for contrast in t1 flair; do
    prepare --simulated 60 --slices 4 --coils 10 --contrast "$contrast" --seed 11 --split 0.84 0.16 0 -o "$data/simulated"
done
prepare --simulated 110 --slices 4 --coils 10 --anatomy knee --contrast pd --seed 11 --split 0.84 0.16 0 -o "$data/simulated"
# For the detectors alone: many more patients, one coil, as nothing is reconstructed from them.
images() {
    prepare --simulated "$1" --slices 2 --coils 1 --seed 21 --split 0.88 0.12 0 --healthy 0.4 "${@:2}" -o "$data/images"
}
images 400 --contrast t1
images 250 --contrast flair
images 300 --anatomy knee --contrast pd
# For the calibration of the detectors: one slice a patient, as many of them sick as among those held out.
calibration() {
    prepare --simulated 300 --slices 1 --coils 1 --seed 88 --split 0 1 0 --healthy 0.3 "$@" -o "$data/calibration"
}
calibration --contrast t1
calibration --contrast flair
calibration --anatomy knee --contrast pd
# For measuring them: more patients, as a calibration error over a hundred is mostly chance.
detection() {
    prepare --simulated 400 --slices 1 --coils 1 --seed 79 --split 0 0 1 --healthy 0.3 "$@" -o "$data/detection"
}
detection --contrast t1
detection --contrast flair
detection --anatomy knee --contrast pd
# Held out: other patients (another seed), one slice each, and the same patients without their lesions.
held_out() {
    prepare --simulated 100 --slices 1 --coils 12 --seed 77 --split 0 0 1 --healthy 0.3 "$@" -o "$data/held_out"
    prepare --simulated 100 --slices 1 --coils 12 --seed 77 --split 0 0 1 --healthy 1.0 "$@" -o "$data/lesion_free"
}
held_out --contrast t1
held_out --contrast flair
held_out --anatomy knee --contrast pd

# The detectors first, with the images; `train all` finds them done.
detector() {
    "$pass_recon" train "$1" --config training/recipes/shipped.yaml --data "$data/real" "$data/simulated" "$data/images" \
        -o "$RUNS/$1" "${@:2}"
}
detector backbone
detector netad --set calibration="$data/calibration"
"$pass_recon" train all --config training/recipes/shipped.yaml --data "$data/real" "$data/simulated" -o "$RUNS" \
    --set netad.calibration="$data/calibration"

# What they are worth, and the same on their cards.
bundles="$RUNS/bundles"
"$pass_recon" evaluate "$bundles"/brain-*x --data "$data/patient12" --slices 4 --tuning "$data/real" --tuning-slices 2 \
    -o "$RUNS/results/patient12"
"$pass_recon" evaluate "$bundles"/*-?x --data "$data/held_out" --lesion-free "$data/lesion_free" --slices 1 \
    --methods population no-map pass -o "$RUNS/results/held_out"
"$pass_recon" train detection "$bundles"/*-4x --data "$data/detection" --training "$data/images" \
    -o "$RUNS/results/detection.json"
"$pass_recon" train transfer --config training/recipes/shipped.yaml --data "$data/mni" --runs "$RUNS" \
    -o "$RUNS/results/transfer.json"
"$pass_recon" train bundles --runs "$RUNS" -o "$bundles" \
    --recipe training/recipes/shipped.yaml --results "$RUNS"/results/*/results.json \
    --attribution "Open MS data: Lesjak et al., Neuroinformatics 2016; CC-BY, magnitude volumes of patients 01, 03, 04" \
    --licence "MIT; the Open MS data are CC-BY and must be attributed as above"
