"""The sources of the corpus, one module per source."""

from mini_moe.folders import data_folder
from mini_moe.text.domains.document import DOMAINS, Document

__all__ = ["DOMAINS", "Document", "data_folder"]
