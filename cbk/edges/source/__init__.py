"""The application's database: its two tables, read and never written (DESIGN section 2.1).

`reader` asks the questions, `engine` opens each kind of database so that it cannot be written, `tables` finds out which columns
there are, `ids` turns their Ids into text and back, `errors` puts what drivers raise into our words.
"""

from cbk.edges.source.reader import Source, SourceReport

__all__ = ["Source", "SourceReport"]
