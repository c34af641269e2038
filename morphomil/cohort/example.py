"""An example manifest to fill in, and the commands of a whole analysis."""

from __future__ import annotations

EXAMPLE_MANIFEST = """\
slide,slide_id,patient,label,annotation,mpp,site,age
slides/001.svs,,001,0,,,North,52
slides/002.ndpi,,002,1,annotations/002.geojson,,North,61
regions/003_0.jpg,003,003,1,,0.5,South,47
regions/003_1.jpg,003,003,1,,0.5,South,47
"""
"""A manifest to fill in; paths start from its folder, rows of one `slide_id` are region images of
one slide."""
EXAMPLE_COMMANDS = """\
# The settings of this analysis and the commands that use them. Run it with: bash analysis.sh
# What is finished is skipped, so it can be run again after an interruption.
set -eu
cd "$(dirname "$0")"

COHORT=cohort.csv
RUN=run
POSITIVE=1         # the label that counts as positive
COVARIATES=age     # columns for the clinical models and for subgroups, with commas between
WORKING_MPP=0.5    # um per pixel to cut and segment patches at
PATCH=256          # side of a patch, working pixels
FOLDS=5
SEED=0

morphomil doctor --manifest "$COHORT"
morphomil segment "$COHORT" --out "$RUN" --covariates "$COVARIATES" \\
  --working-mpp "$WORKING_MPP" --patch "$PATCH"
morphomil featurize "$RUN"
morphomil rank "$RUN" --positive "$POSITIVE" --folds "$FOLDS" --seed "$SEED"

# The image model and the clinical one beside it.
morphomil embed "$RUN"
for MODEL in dl-cnb dl-cnb+c clinical; do
    morphomil train "$RUN" --model "$MODEL" --positive "$POSITIVE" --folds "$FOLDS" --seed "$SEED"
done
morphomil predict "$RUN"

# Tables, figures, report.
morphomil compare "$RUN"
morphomil figures "$RUN"
morphomil report "$RUN"
"""
"""The whole analysis as a shell script, its settings at the head."""
