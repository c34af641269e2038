"""A run directory: where each result lies, whether it is still valid, and its readers.

Into a run write the stages of `morphomil.pipeline`, holding `Run.lock`, and the tables, figures and
exports that are made from their results; all write through `store`, to places that `Run` names.
What a stage has done for a slide stands in a `Ledger` last of all, and everybody else only reads.
"""

from morphomil.run.claims import Part
from morphomil.run.directory import Run
from morphomil.run.embeddings import Embeddings, embedded_backbones
from morphomil.run.ledger import Ledger, key_of
from morphomil.run.log import CommandLog

__all__ = ["CommandLog", "Embeddings", "Ledger", "Part", "Run", "embedded_backbones", "key_of"]
