"""The paper's tables, attention in terms of nuclei, the checklist."""
