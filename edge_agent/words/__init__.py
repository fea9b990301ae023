"""Every sentence that a person sees, in English and Japanese.

`t` takes the English sentence with ``{named}`` places, looks up the sentence of the reader's language and fills the places in. English is
the key and the fallback: a missing translation shows English, never an empty line. The Japanese sentences stand in ``ja/*.toml``, the
meaning of error codes in ``codes/*.toml``, one file a room each.
"""

from edge_agent.words.catalogue import language, t
from edge_agent.words.explain import Explanation, codes, explanation

__all__ = ["Explanation", "codes", "explanation", "language", "t"]
