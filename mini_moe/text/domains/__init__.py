"""Where the corpus comes from: one module for each origin."""

from mini_moe.text.domains.document import DOMAINS, Document, data_folder

__all__ = ["DOMAINS", "Document", "data_folder"]
