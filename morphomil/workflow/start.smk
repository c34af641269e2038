# What is done comes with morphomil (`morphomil/workflow/Snakefile`); what is yours stands in
# config.yaml (the cluster), morphomil.yaml (the analysis) and plan.csv (which slides make a job).
from importlib.resources import files

configfile: "config.yaml"
include: str(files("morphomil") / "workflow" / "Snakefile")

rule all:
    localrule: True
    input: FINISHED
